"""Leaves out what needs a compiler that isn't installed here."""

from eomt_jax.benchmark.gpu_target import is_compiler_here

# JAX's CUDA plugin takes gigabytes, and nothing but these tests needs it without a GPU.
collect_ignore = [] if is_compiler_here() else ["test_gpu_compile.py"]
