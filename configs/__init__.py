"""Recipes: one a file, each only what differs from common.py."""
