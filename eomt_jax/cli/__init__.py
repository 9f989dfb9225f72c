"""Command-line tools, each of which parses its arguments and calls the library."""
