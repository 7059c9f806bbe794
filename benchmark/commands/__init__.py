"""Implementation of the commands: what each does and prints."""
