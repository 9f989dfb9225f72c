"""Metrics and the loop that fills them."""
