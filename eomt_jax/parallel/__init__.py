"""The mesh of a run: its axes, partition rules, processes and batches."""
