"""Attention by platform. `attention.py` is the entry, and chooses."""
