"""Kills a training at random moments and checks that its result doesn't change.

python -m tests.chaos.run [--kills=12] [--seed=0] [--processes=1] [--config=RECIPE]

It trains once undisturbed, and once under a scheduler that repeatedly ends the run by
SIGKILL or SIGTERM and starts it again. Parameters, optimizer and data position must be
equal to the last bit, and metrics.jsonl and TensorBoard must have each step once.
Arguments after `--` go to train.py.
"""

import argparse
import pathlib
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from eomt_jax.datasets import prepare, shapes
from tests.chaos.outcome import differences, read_outcome
from tests.processes import Ended, Processes

RUN_AGAIN = 75
_TIMEOUT = 600.0
# After a process is killed, the whole run must end within this time.
_SECONDS_TO_END = 60.0

Start = Callable[[pathlib.Path], Processes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--config", default="tests/chaos/recipe.py")
    parser.add_argument(
        "--folder", type=pathlib.Path, help="kept; else a temporary one"
    )
    parser.add_argument("rest", nargs="*", help="for train.py, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare_few_shapes(folder / "data")
        arguments = [
            f"--config={options.config}",
            f"--config.dataset.data_dir={folder / 'data'}",
            f"--config.compilation_cache={folder / 'compiled'}",
            *options.rest,
        ]

        def start(workdir: pathlib.Path) -> Processes:
            return Processes(
                "train",
                [*arguments, f"--workdir={workdir}"],
                count=options.processes,
                devices=2 if options.processes > 1 else 1,
                folder=folder,
            )

        with start(folder / "undisturbed") as run:
            startup = seconds_until_steps(run, 1)
            expect_success(run.wait(timeout=_TIMEOUT))
        kill_and_restart(
            start,
            folder / "killed",
            kills=options.kills,
            rng=random.Random(options.seed),
            startup=startup,
        )
        found = differences(
            read_outcome(folder / "killed"), read_outcome(folder / "undisturbed")
        )
    print("\n".join(found) or "Equal to the last bit; each step is told once.")
    return int(bool(found))


def prepare_few_shapes(data_dir: pathlib.Path) -> None:
    """Prepares drawn images for a run of seconds, if they aren't prepared yet."""
    shapes.NUM_EXAMPLES = {"train": 10, "validation": 3}
    prepare.ensure("shapes", str(data_dir))


def kill_and_restart(
    start: Start,
    workdir: pathlib.Path,
    *,
    kills: int,
    rng: random.Random,
    startup: float,
) -> None:
    """Runs to the end with kills, and prints a line for each of them.

    Args:
      start: function that starts the run in a work directory.
      workdir: the work directory.
      kills: number of signals to send; fewer are sent if the run ends before.
      rng: random generator that chooses signal, process and moment.
      startup: approximate seconds until the first step after a start.
    """
    print(
        "kill  signal   process  after    while                        ended",
        flush=True,
    )
    for number in range(1, kills + 1):
        begin = time.monotonic()
        with start(workdir) as run:
            # Half of the signals come during the start: reading, compiling, restoring.
            if rng.random() < 0.5:
                wait(run, rng.uniform(0.0, startup))
            else:
                seconds_until_steps(run, rng.randint(1, 10))
                wait(run, rng.uniform(0.0, 0.2))
            victim = rng.randrange(len(run.running))
            sent = rng.choice((signal.SIGKILL, signal.SIGTERM))
            if all(process.poll() is not None for process in run.running):
                expect_success(run.wait(timeout=0.0))
                print(f"done before kill {number}")
                return
            doing = what_goes_on(run, workdir)
            hit = time.monotonic()
            run.running[victim].send_signal(sent)
            ended = run.wait(timeout=_SECONDS_TO_END)
        print(
            f"{number:>4}  {sent.name:<8} {victim:>7}  {hit - begin:5.1f} s  "
            f"{doing:<27}  {' '.join(str(one.returncode) for one in ended)}, "
            f"after {time.monotonic() - hit:.1f} s",
            flush=True,
        )
        expect_run_again(ended, victim=victim, sent=sent)
    with start(workdir) as run:
        expect_success(run.wait(timeout=_TIMEOUT))


def seconds_until_steps(run: Processes, steps: int) -> float:
    """Waits until a start has printed so many steps or has ended; returns seconds."""
    begin = time.monotonic()
    while run.output(0).count("\nstep ") < steps and run.running[0].poll() is None:
        time.sleep(0.005)
    return time.monotonic() - begin


def wait(run: Processes, seconds: float) -> None:
    """Sleeps, at most until the end of process 0."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.running[0].poll() is None:
        time.sleep(0.005)


def what_goes_on(run: Processes, workdir: pathlib.Path) -> str:
    """Returns what a run is doing in a few words, by its output and its folder."""
    lines = run.output(0).splitlines()
    line = lines[-1] if lines else "starting"
    doing = " ".join(re.split(r"[|,…:]", line)[0].split()[:4])[:24]
    unfinished = [
        path.name.split(".")[0]
        for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    ]
    return doing + "".join(f", saving {step}" for step in unfinished)


def expect_run_again(
    ended: Sequence[Ended], *, victim: int, sent: signal.Signals
) -> None:
    """Exits unless each process ended in a way after which a scheduler starts it again.

    After SIGTERM all processes save and end, or, before they train, one ends like any
    program. If one is lost, the others must print that.
    """
    codes = {one.returncode for one in ended}
    if sent == signal.SIGTERM and codes in ({RUN_AGAIN}, {0}):
        return
    for index, one in enumerate(ended):
        if index == victim:
            fine = one.returncode == -sent
        else:
            fine = one.returncode == 1 and "error: process" in one.output
        if not fine:
            sys.exit(f"process {index} ended with {one.returncode}:\n{one.output}")


def expect_success(ended: Sequence[Ended]) -> None:
    for index, one in enumerate(ended):
        if one.returncode != 0:
            sys.exit(f"process {index} ended with {one.returncode}:\n{one.output}")


if __name__ == "__main__":
    sys.exit(main())
