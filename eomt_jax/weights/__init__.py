"""Checkpoints in and out: other libraries' formats and our own."""
