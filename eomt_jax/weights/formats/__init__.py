"""Reads files: safetensors, PyTorch's, several parts, names on the hub."""
