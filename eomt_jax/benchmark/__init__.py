"""Measurements: speed, and loss curves beside another implementation's."""
