"""Networks: a plain ViT, and EoMT on top of it."""
