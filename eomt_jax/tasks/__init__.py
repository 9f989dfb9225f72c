"""One class for each task; eomt_jax.task_registry finds it by its name."""
