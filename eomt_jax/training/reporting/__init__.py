"""Reports on a run: console, metrics, event files, pictures, dry run."""
