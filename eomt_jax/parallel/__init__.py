"""One mesh for every run: its axes, partition rules, processes and batches."""
