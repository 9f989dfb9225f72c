"""From logits to segmentations: geometry, post-processing, pictures."""
