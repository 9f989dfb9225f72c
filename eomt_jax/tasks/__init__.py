"""Defines the tasks, a class each; eomt_jax.task_registry finds them by name."""
