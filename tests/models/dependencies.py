"""Which arguments of a program each of its values is computed from."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal


def dependencies(program: Any) -> Callable[[Any], set[int]]:
    """A function: variable or literal of the program → positions of arguments.

    An operation's results depend on all its operands, as each waits for them.

    Args:
      program: what `jax.make_jaxpr` returns.
    """
    arguments = {variable: {i} for i, variable in enumerate(program.jaxpr.invars)}

    def of(value: Any) -> set[int]:
        return set() if isinstance(value, Literal) else arguments.get(value, set())

    for operation in program.eqns:
        needed = set().union(*map(of, operation.invars))
        arguments |= dict.fromkeys(operation.outvars, needed)
    return of


def dependencies_of_results(function: Callable[..., Any], *args: Any) -> list[set[int]]:
    """For each array that `function` returns, the arrays in `args` it waits for."""
    program = jax.make_jaxpr(function)(*args)
    return [*map(dependencies(program), program.jaxpr.outvars)]
