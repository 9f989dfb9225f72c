"""The networks: a plain ViT and EoMT on top of it."""
