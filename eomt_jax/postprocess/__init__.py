"""Turns logits into segments at the photograph's own size."""
