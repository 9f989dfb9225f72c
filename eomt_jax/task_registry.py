"""Finds a task's object by its name.

Datasets, configs and results hold a task's name, and `get_task` returns its object.
Pipeline, inference and evaluation use that object and never import the package of the
tasks, which lies above them. A task of your own registers itself when it is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from eomt_jax.tasks.task import Task
else:
    Task = Any
_Task = TypeVar("_Task", bound=Task)

# These modules are imported on first use, because a process that only reads photographs
# needs no network and no metric.
_HOMES = {
    "panoptic": "eomt_jax.tasks.panoptic",
    "instance": "eomt_jax.tasks.instance",
    "semantic": "eomt_jax.tasks.semantic",
}
_tasks: dict[str, Task] = {}


def task_names() -> tuple[str, ...]:
    """Returns the names of all tasks: the library's, then those registered by others."""
    return tuple(dict.fromkeys([*_HOMES, *_tasks]))


def register_task(task: type[_Task]) -> type[_Task]:
    """Registers a subclass of tasks.task.Task under its `name`; a decorator.

    Raises:
      ValueError: a class of another module has this name.
    """
    home = _HOMES.get(task.name, task.__module__)
    if task.name in _tasks:
        home = type(_tasks[task.name]).__module__
    if task.__module__ != home:
        raise ValueError(f"there is a task {task.name!r} already, in {home}")
    _tasks[task.name] = task()
    return task


def get_task(name: str) -> Task:
    """Returns the task of that name.

    Raises:
      ValueError: there is no such task.
    """
    if name not in task_names():
        raise ValueError(
            f"task is {name!r}; it must be one of {', '.join(task_names())}"
        )
    if name not in _tasks:
        importlib.import_module(_HOMES[name])
    return _tasks[name]
