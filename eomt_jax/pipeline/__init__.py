"""Makes batches from prepared records, with NumPy and Pillow only."""
