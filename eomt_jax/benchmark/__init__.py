"""Measures speed and memory, and compares loss curves with another implementation."""
