"""Knows other libraries' names, layouts and configs."""
