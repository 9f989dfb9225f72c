"""Kernels for attention; `attention.py` chooses one for the platform."""
