"""Draws segments, comparisons and confusion matrices."""
