"""Command-line tools, each a thin main."""
