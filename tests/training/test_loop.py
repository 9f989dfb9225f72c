"""A resumed run equals an uninterrupted one, and every stop gives its reason."""

import json
import os
import resource
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eomt_jax.pipeline.records import open_split
from eomt_jax.training import guards, loop
from eomt_jax.training.checkpoints import save_schedule, stored_step
from eomt_jax.training.checkpoints.saving import StorageError
from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.training.reporting import dry_run, reviews
from eomt_jax.training.setup import Setup, setup
from eomt_jax.weights.load import load
from eomt_jax.weights.native import model_folder

_compile_step = loop.compile_step
_create_state = Setup.create_state
_runner = reviews.Runner
_compiled = []
_created = []
_runners = {}


@pytest.fixture(autouse=True)
def compile_once(monkeypatch):
    """Makes all runs share the programs that take longer to compile than to run."""

    def compile_step(*args):
        if not _compiled:
            _compiled.append(_compile_step(*args))
        return _compiled[0]

    def create_state(self):
        if not _created:
            state = _create_state(self)
            _created.append(
                (
                    jax.tree.map(np.array, state),
                    jax.tree.map(lambda x: x.sharding, state),
                )
            )
        state, shardings = _created[0]
        # The state is copied, since the step overwrites its arguments.
        return jax.device_put(jax.tree.map(np.copy, state), shardings)

    def runner(model, info, **options):
        key = (model, *options.values())
        if key not in _runners:
            _runners[key] = _runner(model, info, **options)
        return _runners[key]

    monkeypatch.setattr(loop, "compile_step", compile_step)
    monkeypatch.setattr(dry_run, "compile_step", compile_step)
    monkeypatch.setattr(Setup, "create_state", create_state)
    monkeypatch.setattr(reviews, "Runner", runner)


def run(config, workdir):
    return loop.train(config, workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def uninterrupted():
    """Returns state and losses at the end of an undisturbed run, set by a test."""
    return {}


@pytest.fixture
def reference(uninterrupted, tiny_config, tmp_path_factory):
    if not uninterrupted:
        workdir = tmp_path_factory.mktemp("uninterrupted")
        uninterrupted["state"] = jax.tree.map(np.array, run(tiny_config, workdir))
        uninterrupted["losses"] = read_losses(workdir)
    return uninterrupted


def read_losses(workdir):
    """Returns [(step, loss)] of metrics.jsonl."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"]) for r in map(json.loads, lines)]


def before_step(monkeypatch, step, action):
    """Calls `action` right before step number `step`, counted from 1."""
    remember = guards.NonFiniteGuard.remember

    def remember_and_act(self, number, batch):
        remember(self, number, batch)
        if number == step:
            action()

    monkeypatch.setattr(guards.NonFiniteGuard, "remember", remember_and_act)


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def crash():
    raise RuntimeError("power cut")


def test_run_that_crashed_between_checkpoints_ends_bit_for_bit_as_uninterrupted(
    tiny_config, tmp_path, monkeypatch, reference
):
    tiny_config.checkpoint.every_steps = 3
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        before_step(patch, 6, crash)
        run(tiny_config, tmp_path)
    # Steps 4 and 5 are already recorded, and will be recorded again.
    assert [step for step, _ in read_losses(tmp_path)] == [1, 2, 3, 4, 5]
    assert_equal(run(tiny_config, tmp_path), reference["state"])
    assert read_losses(tmp_path) == reference["losses"]


def test_run_that_crashed_before_any_checkpoint_begins_anew(
    tiny_config, tmp_path, monkeypatch, reference
):
    tiny_config.checkpoint.every_steps = 4
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        before_step(patch, 3, crash)
        run(tiny_config, tmp_path)
    assert_equal(run(tiny_config, tmp_path), reference["state"])
    assert read_losses(tmp_path) == reference["losses"]


def test_sigterm_saves_exits_with_run_again_and_continues(
    tiny_config, tmp_path, monkeypatch, capsys, reference
):
    tiny_config.checkpoint.every_steps = 100
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        before_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run(tiny_config, tmp_path)
    assert stop.value.code == 75
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (tmp_path / "checkpoints/3").exists()
    assert_equal(run(tiny_config, tmp_path), reference["state"])
    assert "Going on from" in capsys.readouterr().out


def test_signal_before_the_first_step_ends_at_once(
    tiny_config, tmp_path, monkeypatch, capsys
):
    def compile_step(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("compiled all the same")

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(loop, "compile_step", compile_step)
        run(tiny_config, tmp_path)
    assert stop.value.code == 75
    assert "Stopped by a signal" in capsys.readouterr().out
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == handler


def told(workdir):
    """Returns the run's evaluations and pictures, and TensorBoard's steps."""
    records = (workdir / "metrics.jsonl").read_text().splitlines()
    times = "images_per_second"
    records = [{k: v for k, v in json.loads(r).items() if k != times} for r in records]
    files = sorted(p.name for p in workdir.glob("[ep][vi]*s/*"))
    return records, files


@pytest.mark.parametrize("last_step", [4, 6])
@pytest.mark.parametrize("during", [False, True])
def test_stopped_run_makes_up_for_the_evaluation_it_left_out(
    tiny_config, tmp_path, monkeypatch, capsys, reference, last_step, during
):
    """It is asked to stop before a step with an evaluation, or within that."""
    tiny_config.eval.every_steps = last_step
    tiny_config.logging.picture_every_steps = last_step
    tiny_config.checkpoint.every_steps = 100
    tiny_config.checkpoint.keep_best = 1
    if not during:
        run(tiny_config, tmp_path / "whole")
        reference[last_step] = told(tmp_path / "whole")
    evaluate = reviews.evaluate
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        if during:

            def evaluate_and_be_killed(*args, **options):
                os.kill(os.getpid(), signal.SIGTERM)
                return evaluate(*args, **options)

            patch.setattr(reviews, "evaluate", evaluate_and_be_killed)
        else:
            before_step(patch, last_step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run(tiny_config, tmp_path)
    assert stop.value.code == 75
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(last_step)]
    assert not (tmp_path / "evaluations").exists()
    capsys.readouterr()
    assert_equal(run(tiny_config, tmp_path), reference["state"])
    out = capsys.readouterr().out
    assert out.count(f"Evaluation after step {last_step},") == 1
    assert out.count("step ") - out.count("after step") == 6 - last_step
    assert told(tmp_path) == reference[last_step]
    # The score was computed after the checkpoint was saved, and is stored in it.
    about = tmp_path / f"checkpoints/{last_step}/about/metadata"
    assert json.loads(about.read_text())["score"]["name"] == "PQ"
    assert "Best checkpoint kept: PQ" in out and f"after step {last_step}" in out


def test_checkpoint_out_of_reach_is_not_taken_for_damaged(
    tiny_config, tmp_path, monkeypatch, reference
):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        before_step(patch, 6, crash)
        run(tiny_config, tmp_path)

    def restore(*_, **__):
        raise ConnectionResetError("Connection reset by peer")

    step = tmp_path / "checkpoints/4"
    handler = stored_step.ocp.StandardCheckpointHandler
    with monkeypatch.context() as patch, pytest.raises(OSError) as error:
        patch.setattr(handler, "restore", restore)
        run(tiny_config, tmp_path)
    assert f"{step} could not be read: ConnectionResetError" in str(error.value)
    assert_equal(run(tiny_config, tmp_path), reference["state"])


def damage(step_folder):
    """Cuts off the file that holds most of the optimizer's state."""
    files = (step_folder / "training/d").iterdir()
    max(files, key=lambda path: path.stat().st_size).write_bytes(b"torn")


def test_run_goes_on_from_the_newest_sound_checkpoint(
    tiny_config, tmp_path, monkeypatch, capsys, reference
):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        before_step(patch, 6, crash)
        run(tiny_config, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(tmp_path, tmp_path / "swapped")
    damage(checkpoints / "4")
    shutil.copytree(tmp_path, tmp_path / "all_damaged")
    assert_equal(run(tiny_config, tmp_path), reference["state"])
    out = capsys.readouterr().out
    assert f"{checkpoints / '4'} is damaged" in out and "kept as 4.damaged." in out
    assert f"Going on from {checkpoints / '2'}." in out
    assert read_losses(tmp_path) == reference["losses"]
    # Two are kept, without the damaged one.
    names = sorted(path.name for path in checkpoints.iterdir())
    assert names == ["4", "4.damaged", "6"]

    # Without a sound checkpoint the run doesn't start anew, and nothing is renamed.
    folder = tmp_path / "all_damaged/checkpoints"
    damage(folder / "2")
    with pytest.raises(ValueError, match="None of the 2 checkpoints in .*") as error:
        run(tiny_config, tmp_path / "all_damaged")
    for step in ("2", "4"):
        assert f"{folder / step} is damaged" in str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]

    # A step is never taken for another one.
    folder = tmp_path / "swapped/checkpoints"
    for source, target in (("4", "6"), ("2", "4"), ("6", "2")):
        (folder / source).rename(folder / target)
    with pytest.raises(ValueError, match="4 holds the state after step 2, not 4"):
        run(tiny_config, tmp_path / "swapped")
    for part in ("params", "training", "about"):
        for source, target in (("4", "6"), ("2", "4"), ("6", "2")):
            (folder / target).mkdir(exist_ok=True)
            (folder / source / part).rename(folder / target / part)
    shutil.rmtree(folder / "6")
    with pytest.raises(ValueError, match="4 holds the state after step 2, not 4"):
        run(tiny_config, tmp_path / "swapped")


def test_full_disk_ends_the_run_and_with_room_it_goes_on(
    tiny_config, tmp_path, monkeypatch, reference
):
    """A limit on the size of files stops the superuser too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = tmp_path / "checkpoints"

    def fill():
        while not (checkpoints / "2").exists():  # It is written in the background.
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    try:
        with monkeypatch.context() as patch, pytest.raises(StorageError) as error:
            before_step(patch, 4, fill)
            run(tiny_config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for said in (checkpoints / "4", f"last good one is {checkpoints / '2'}", "room"):
        assert str(said) in str(error.value)
    assert_equal(run(tiny_config, tmp_path), reference["state"])
    assert read_losses(tmp_path) == reference["losses"]


def test_file_where_the_run_wants_a_folder_is_told(tiny_config, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ValueError, match="checkpoints is a file"):
        run(tiny_config, tmp_path)


def test_run_saves_itself_by_the_clock(tiny_config, tmp_path, monkeypatch):
    """An hour passes before step 3, and nothing else causes a checkpoint."""
    now = time.monotonic
    skipped = [0.0]
    monkeypatch.setattr(save_schedule.time, "monotonic", lambda: now() + skipped[0])
    tiny_config.checkpoint.every_steps = 0
    tiny_config.checkpoint.every_minutes = 60
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        before_step(patch, 3, lambda: skipped.insert(0, 3600.0))
        before_step(patch, 5, crash)
        run(tiny_config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_whole_run_leaves_a_model_metrics_and_pictures(
    tiny_config, tmp_path, capsys, monkeypatch
):
    tiny_config.eval.every_steps = 4
    tiny_config.eval.num_images = 3
    tiny_config.logging.every_steps = 4
    tiny_config.logging.picture_every_steps = 6
    tiny_config.logging.num_pictures = 2
    tiny_config.checkpoint.every_steps = 5
    tiny_config.checkpoint.keep = 1
    tiny_config.checkpoint.keep_best = 1
    scores = iter([Score("PQ", 12.25), Score("PQ", 9.5)])
    monkeypatch.setattr(reviews, "result_score", lambda results: next(scores))
    state = run(tiny_config, tmp_path)

    records = [
        json.loads(line)
        for line in (tmp_path / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [record["step"] for record in records] == [4, 6]
    assert records[0].keys() >= {"loss", "grad_norm", "images_per_second"}
    for step in (4, 6):
        results = json.loads((tmp_path / f"evaluations/{step:08d}.json").read_text())
        assert results["num_images"] == 3
    with Image.open(tmp_path / "pictures/00000006.png") as picture:
        assert min(picture.size) > 100
    assert list((tmp_path / "tensorboard").iterdir())
    model, params = load(tmp_path / "checkpoints/6")
    assert model.num_classes == 6
    assert_equal(params, jax.tree.map(np.array, state.params))
    out = capsys.readouterr().out
    # The first step is printed at once, and recorded with the steps that follow.
    assert "step 1/6" in out and "step 4/6" in out
    assert "step 2/6" not in out
    assert "circle" in out
    assert out.splitlines()[-1].endswith(f"tensorboard --logdir={tmp_path}/tensorboard")
    # The checkpoint of the better evaluation is kept beside the last one.
    checkpoints = tmp_path / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"4", "6"}
    assert "PQ 12.2 after step 4. To use it: eomt-predict PHOTOS " in out
    assert f"--checkpoint={checkpoints / '4'}" in out

    # The same command once more has nothing to do, and prints that.
    assert_equal(run(tiny_config, tmp_path), jax.tree.map(np.array, state))
    assert "Nothing to do" in capsys.readouterr().out


def test_run_stops_early_and_its_folder_stands_for_its_best_step(
    tiny_config, tmp_path, monkeypatch, capsys
):
    tiny_config.eval.every_steps = 1
    tiny_config.eval.patience = 2
    tiny_config.checkpoint.keep = 1
    tiny_config.checkpoint.keep_best = 1
    (tmp_path / "evaluations").mkdir()

    def make(self, review, step, params):
        if not review.evaluation:
            return None, False
        (tmp_path / f"evaluations/{step:08d}.json").touch()
        return Score(
            "AP", {1: 5.0, 2: 7.0, 3: 6.0, 4: 6.5, 5: 6.0, 6: 1.0}[step]
        ), False

    monkeypatch.setattr(reviews.Reviewer, "make", make)
    run(tiny_config, tmp_path)
    told = "Stopped early after step 4: 2 evaluations in a row (eval.patience) were no "
    assert told + "better than AP 7.0 after step 2." in capsys.readouterr().out
    assert model_folder.step_folder(tmp_path) == tmp_path / "checkpoints/2"

    # The same command has nothing to do; without patience it continues.
    run(tiny_config, tmp_path)
    out = capsys.readouterr().out
    assert told in out and "Nothing to do: to go on, raise eval.patience" in out
    tiny_config.eval.patience = 0
    assert int(run(tiny_config, tmp_path).step) == 6
    best, (note,) = model_folder.chosen_step(tmp_path)
    assert best == tmp_path / "checkpoints/2"
    assert f"the best one is taken, {best} with AP 7.0; the newest is" in note
    # A run that keeps only the newest checkpoint is evaluated at its newest step.
    tiny_config.checkpoint.keep_best = 0
    run(tiny_config, tmp_path / "newest")
    assert model_folder.step_folder(tmp_path / "newest").name == "6"


def test_loss_that_is_no_number_stops_with_step_checkpoint_and_images(
    tiny_config, tmp_path, monkeypatch
):
    """It is found before step 4 is saved, although losses are printed every 5 steps."""
    tiny_config.logging.every_steps = 5
    compile_step = loop.compile_step
    seen = []

    def compile_poisoned_step(*args):
        step = compile_step(*args)

        def poisoned(state, batch):
            seen.append(np.array(batch.example_index))
            state, metrics = step(state, batch)
            if len(seen) == 3:
                queries = state.params["queries"].at[0].set(jnp.nan)
                state = state.replace(params={**state.params, "queries": queries})
                metrics = {**metrics, "grad_norm": jnp.float32(jnp.nan)}
            return state, metrics

        return poisoned

    monkeypatch.setattr(loop, "compile_step", compile_poisoned_step)
    with pytest.raises(guards.NonFiniteError, match="not finite") as error:
        run(tiny_config, tmp_path)
    message = str(error.value)
    source = open_split(tiny_config.dataset.data_dir, "shapes", "train")
    assert "step 3" in message
    assert str(tmp_path / "checkpoints/2") in message
    for index in seen[2].tolist():
        assert source.image_id(index) in message
    assert not (tmp_path / "checkpoints/4").exists()


def test_out_of_memory_names_the_fields_to_turn(tiny_config, tmp_path, monkeypatch):
    def compile_step(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(loop, "compile_step", compile_step)
    with pytest.raises(guards.OutOfMemoryError) as error:
        run(tiny_config, tmp_path)
    for field in ("batch_size", "image_size", "remat", "fsdp", "num_points"):
        assert field in str(error.value)


def test_resuming_with_another_seed_is_refused_other_changes_are_told(
    tiny_config, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        before_step(patch, 4, crash)
        run(tiny_config, tmp_path)
    tiny_config.seed = 1
    with pytest.raises(ValueError, match="config.seed: 0 then, 1 now"):
        run(tiny_config, tmp_path)
    tiny_config.seed = 0
    tiny_config.logging.every_steps = 3
    # The count of replaced images continues.
    about = tmp_path / "checkpoints/2/about/metadata"
    assert json.loads(about.read_text())["num_replaced"] == 0
    about.write_text(
        about.read_text().replace('"num_replaced": 0', '"num_replaced": 5')
    )
    run(tiny_config, tmp_path)
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["num_replaced"] == 5
    assert "config.logging.every_steps from 1 to 3" in capsys.readouterr().out


def test_resumed_run_does_not_read_what_it_started_from(
    tiny_config, tmp_path, monkeypatch, capsys
):
    started = setup(tiny_config, devices=jax.devices()[:1])
    model, params = started.initialization.model, started.create_state().params
    model_folder.save(tmp_path / "start", model, params, dataset_info=started.info)
    tiny_config.init.checkpoint = str(tmp_path / "start")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        before_step(patch, 4, crash)
        run(tiny_config, tmp_path / "run")
    assert "class head: kept" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "start")
    run(tiny_config, tmp_path / "run")
    out = capsys.readouterr().out
    assert "Going on from" in out and "step 6/6" in out and "kept" not in out
    # A network of another size is another run.
    tiny_config.model.variant = "tiny"
    with pytest.raises(ValueError, match="resumed is not .* model.variant = 'micro'"):
        run(tiny_config, tmp_path / "run")


def test_dry_run_tells_what_is_needed_and_trains_nothing(tiny_config, tmp_path, capsys):
    dry_run.dry_run(tiny_config, tmp_path, devices=jax.devices()[:1])
    out = capsys.readouterr().out
    for said in (
        *("  model.num_queries = 8\n", "6 steps of 2", "resampled", "optimizer state"),
        *(
            "A step takes ",
            " s here, 6 steps ",
            "the process took ",
            "at most, measured",
        ),
        "augmentation.scale_range = (1.0, 1.0)",
    ):
        assert said in out
    dry_run.dry_run(tiny_config, tmp_path, measure=False, devices=jax.devices()[:1])
    out = capsys.readouterr().out
    assert "A step takes" not in out and "leave out --nomeasure" in out
    assert [path.name for path in tmp_path.iterdir()] == ["first_batch.png"]
