"""Computes metrics of a model on a split."""
