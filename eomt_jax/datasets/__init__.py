"""Builders of prepared datasets, and previews of them."""
