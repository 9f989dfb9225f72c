"""Leaves out tests that need a compiler that isn't installed."""

from eomt_jax.benchmark.gpu_target import is_compiler_here

# JAX's CUDA plugin takes gigabytes, and without a GPU only these tests need it.
collect_ignore = [] if is_compiler_here() else ["test_gpu_compile.py"]
