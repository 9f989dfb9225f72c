"""Recipes that turn published archives into prepared datasets."""
