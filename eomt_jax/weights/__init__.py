"""Reads and writes checkpoints, in other libraries' formats and our own."""
