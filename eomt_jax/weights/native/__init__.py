"""Reads and writes this library's own folders and single files."""
