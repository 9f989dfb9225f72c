"""Predicts photographs, and exports networks."""
