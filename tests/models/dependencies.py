"""Finds the arguments of a program from which each of its values is computed."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal


def dependencies(program: Any) -> Callable[[Any], set[int]]:
    """Returns a function from a variable or literal to the positions of arguments.

    An operation's results depend on all its operands, since each waits for them.

    Args:
      program: result of `jax.make_jaxpr`.
    """
    arguments = {variable: {i} for i, variable in enumerate(program.jaxpr.invars)}

    def of(value: Any) -> set[int]:
        return set() if isinstance(value, Literal) else arguments.get(value, set())

    for operation in program.eqns:
        needed = set().union(*map(of, operation.invars))
        arguments |= dict.fromkeys(operation.outvars, needed)
    return of


def dependencies_of_results(function: Callable[..., Any], *args: Any) -> list[set[int]]:
    """Returns for each result of `function` the arrays in `args` that it waits for."""
    program = jax.make_jaxpr(function)(*args)
    return [*map(dependencies(program), program.jaxpr.outvars)]
