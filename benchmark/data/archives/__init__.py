"""Unpacking the archives that datasets come in: all of an archive or nothing, and nothing outside its folder."""
