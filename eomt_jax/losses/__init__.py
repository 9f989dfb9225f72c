"""Matching and the training loss."""
