"""Prepared records → augmented samples → batches. NumPy and Pillow only."""
