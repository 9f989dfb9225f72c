"""Going on from the newest checkpoint that is sound."""

from eomt_jax.training.checkpoints.joint_reading import DamagedError
from eomt_jax.training.checkpoints.saving import Checkpoints
from eomt_jax.training.checkpoints.stored_step import check_step
from eomt_jax.training.reporting.logging import say
from eomt_jax.training.setup import Setup
from eomt_jax.training.state import TrainState


def resume(checkpoints: Checkpoints, run: Setup) -> tuple[TrainState, int]:
    """Returns the state to go on from, and its step; reports damaged checkpoints.

    They get another name once a sound one is found, for the run will save these steps
    again.

    Args:
      checkpoints: of the run, one at least.
      run: as it is set up now; its mesh and number of processes may be others.

    Raises:
      ValueError: the checkpoints belong to another run, or one has the name of another
        step, or all are damaged.
    """
    damaged: dict[int, DamagedError] = {}
    for step in reversed(checkpoints.steps()):
        try:
            saved = checkpoints.read_position(step)
            now, folder = run.position(step), checkpoints.folder
            saved.check_same_stream(now, folder=folder)
            check_step(folder, saved.next_example // saved.batch_size, now=now)
            state = checkpoints.restore(step, run.abstract_state())
            check_step(folder, int(state.step), now=now)
        except DamagedError as error:
            damaged[step] = error
            continue
        for bad, error in damaged.items():
            say(f"{error} It is kept as {checkpoints.set_aside(bad).name}.")
        say(f"Going on from {checkpoints.path(step)}.")
        return state, step
    reasons = "\n".join(f"  {error}" for error in damaged.values())
    raise ValueError(
        f"None of the {len(damaged)} checkpoints in {checkpoints.folder} can be read, "
        f"by all processes:\n{reasons}\nCopy them there again if there is a copy, or "
        "begin anew with another --workdir."
    )
