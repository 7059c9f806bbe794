"""The style and the labels that all plots share."""
