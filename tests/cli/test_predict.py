import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from eomt_jax.cli import predict as command
from eomt_jax.cli.predict import main
from eomt_jax.cli.progress import Progress
from eomt_jax.cli.result_files import write_whole, writing_alone
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.weights.native import model_folder
from tests.predict.channel_network import INFO, SIZE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Returns a random EoMT in one file."""
    vit = ViT(
        embed_dim=16,
        depth=1,
        num_heads=2,
        mlp_dim=32,
        mlp_type="gelu",
        patch_size=16,
        image_size=(SIZE, SIZE),
        num_register_tokens=0,
    )
    model = EoMT(vit=vit, num_classes=4, num_queries=4, num_query_blocks=1)
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_folder.save_file(path, model, params, dataset_info=INFO)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in [("a.jpg", (30, 40)), ("a.png", (50, 20)), ("sub/b.png", (8, 8))]:
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def predict(checkpoint, *arguments):
    flags = [f"--checkpoint={checkpoint}", "--compilation_cache="]
    return main([*map(str, arguments), *flags])


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("skips", [False, True])
def test_predict_skips_padding_where_asked_to(
    skips, checkpoint, photos, tmp_path, monkeypatch
):
    seen, logits = [], CompiledNetwork.logits

    def spy(self, images, **options):
        seen.extend(image.shape[:2] for image in images)
        return logits(self, images, **options)

    monkeypatch.setattr(CompiledNetwork, "logits", spy)
    # 50 × 20 pixels become 32 × 13: one column of two patches.
    flags = ["--skip_padding"] if skips else []
    assert predict(checkpoint, photos / "a.png", f"--out={tmp_path}/out", *flags) == 0
    assert seen == [(SIZE, 16 if skips else SIZE)]


@pytest.mark.parametrize(
    "task, flags, unused",
    [
        (
            "semantic",
            ["--nms_iou=0.7", "--max_instances=5"],
            ["max_instances", "nms_iou"],
        ),
        ("panoptic", ["--nms_iou=0.7", "--threshold=0.5"], ["nms_iou"]),
        ("instance", ["--nms_iou=0.7", "--max_instances=5", "--threshold=0"], []),
        ("instance", ["--tile", "--skip_padding"], ["skip_padding"]),
        ("instance", ["--confidence"], ["confidence"]),
        (
            "panoptic",
            ["--no_overlay", "--long_side=9", "--skip_padding"],
            ["long_side"],
        ),
        ("semantic", [], []),
    ],
)
def test_options_without_effect_are_named(task, flags, unused):
    options = command.parse_arguments(["photos", "--checkpoint=x", *flags])
    notes = command.options_without_effect(options, task)
    assert [note.split()[0] for note in notes] == [f"--{name}" for name in unused]


def test_predict_folder_with_a_damaged_photograph(checkpoint, photos, tmp_path, capsys):
    endings = (".avif", ".jp2", ".jpg", ".png", ".tif", ".webp")
    endings = [e for e in endings if e in Image.registered_extensions()]
    with Image.open(photos / "a.png") as image:
        for ending in endings:
            image.save(photos / f"broken{ending}")
    for path in photos.glob("broken.*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = tmp_path / "out"
    status = predict(
        checkpoint,
        photos,
        f"--out={out}",
        "--task=semantic",
        "--threshold=0",
        "--masks",
        "--confidence",
        "--batch_size=2",
    )
    assert status == 1
    assert files(out) == sorted(
        f"{name}.{ending}"
        for name in ("a_jpg", "a_png", "sub/b")
        for ending in (
            *("json", "masks.png", "png"),
            *("confidence.png", "confidence16.png"),
        )
    )
    errors = capsys.readouterr().err
    assert f"3 of {3 + len(endings)} photographs" in errors
    assert "a second" in errors
    assert "note: --threshold has no effect on semantic segmentation\n" in errors
    last = errors.splitlines()[-len(endings) :]
    for ending, line in zip(endings, last, strict=True):
        assert line.startswith("eomt-predict: ")
        assert f"broken{ending} is " in line

    coco = json.loads((out / "a_png.json").read_text())
    assert coco["images"] == [
        {"id": 1, "file_name": str(photos / "a.png"), "height": 50, "width": 20}
    ]
    assert sum(row["area"] for row in coco["annotations"]) == 50 * 20
    ids = np.asarray(Image.open(out / "a_png.masks.png"))
    for row in coco["annotations"]:
        assert (ids == row["category_id"]).sum() == row["area"]
    with Image.open(out / "a_png.png") as overlay:
        assert overlay.size == (round(1024 * 20 / 50), 1024)
    levels = np.asarray(Image.open(out / "a_png.confidence16.png"))
    assert (levels.dtype, levels.shape) == (np.uint16, (50, 20))
    assert levels.min() > 0
    with Image.open(out / "a_png.confidence.png") as picture:
        assert picture.size == (round(1024 * 20 / 50), 1024 + 44)


def test_predict_names_that_are_long_or_no_text(checkpoint, tmp_path, capfd):
    folder = tmp_path / "photos"
    folder.mkdir()
    no_text = os.fsdecode(b"caf\xe9.png")
    for name in (no_text, "a" * 250 + "b.png", "a" * 251 + ".png"):
        try:
            Image.new("RGB", (8, 8)).save(folder / name)
        except OSError:
            pytest.skip(f"this file system has no file {name!a}")
    (folder / os.fsdecode(b"broken\xe9.png")).write_bytes(b"no picture")
    out = tmp_path / "out"
    assert predict(checkpoint, folder, f"--out={out}", "--masks") == 1
    found = {path.name: path for path in out.glob("*.json")}
    assert len(found) == 3 and len(files(out)) == 9
    for path in found.values():
        image = json.loads(path.read_text(encoding="utf-8"))["images"][0]
        assert os.path.exists(image["file_name"])
    assert os.fsdecode(b"caf\xe9.json") in found
    last = capfd.readouterr().err.splitlines()[-1]
    assert "broken" in last and "is no picture" in last


def test_write_whole_of_two_processes_at_a_time(tmp_path):
    """Each of them writes pairs of files; a pair is one writer's at any time."""
    stop = threading.Event()

    def write(content):
        while not stop.is_set():
            write_whole(epath.Path(tmp_path / "a"), {".png": content, ".json": content})

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, bytes([i]) * 100_000) for i in range(2)]
        while not (tmp_path / "a.json").exists():
            time.sleep(0.001)
        for _ in range(100):
            with writing_alone(epath.Path(tmp_path)):
                png, js = (tmp_path / f"a.{e}" for e in ("png", "json"))
                content = png.read_bytes()
                assert len(content) == 100_000 and content == js.read_bytes()
        stop.set()
        for writer in writers:
            writer.result()
    assert files(tmp_path) == ["a.json", "a.png"]


def test_predict_tiles_and_no_overlay(checkpoint, photos, tmp_path, capsys):
    arguments = ["--tile", "--task=instance", "--no_overlay", "--threshold=0.0"]
    image = photos / "a.png"
    assert predict(checkpoint, image, f"--out={tmp_path / 'out'}", *arguments) == 0
    assert files(tmp_path / "out") == ["a.json"]
    coco = json.loads((tmp_path / "out" / "a.json").read_text())
    assert coco["info"]["task"] == "instance"
    assert "1 of 1 photographs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tile", "--task=panoptic"], "semantic or the instance"),
        (["--out={photos}"], "would replace"),
        (["--dataset=coco_panoptic"], "133 classes"),
        (["--dataset=cocoo"], "published datasets"),
        (["{photos}/*.bmp"], "holds no photograph"),
        (["--threshold=80"], "between 0 and 1"),
        (["--dtype=int8"], "it is one of float32, bfloat16"),
        (["--out={photos}/a.jpg"], "can't write into"),
        (["--masks", "{photos}/a.masks.png"], "both be written to"),
        (["--explain", "--tile", "--task=instance"], "leave out one of them"),
    ],
)
def test_predict_tells_in_one_line_what_cannot_be(
    checkpoint, photos, tmp_path, capsys, arguments, message
):
    filled = [argument.format(photos=photos) for argument in arguments]
    before = files(photos)
    assert predict(checkpoint, photos / "a.png", f"--out={tmp_path}", *filled) == 1
    assert files(photos) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("eomt-predict: ")
    assert message in line


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("", "images: it is empty"),
        ("--out=", "--out: it is empty"),
        ("--checkpoint=", "--checkpoint: it is empty"),
        ("--num_threads=four", "--num_threads: 'four' is no whole number above 0"),
        ("--long_side=0", "--long_side: '0' is no whole number above 0"),
    ],
)
def test_predict_refuses_an_argument_by_its_name(argument, message, photos, capsys):
    with pytest.raises(SystemExit):
        main([f"{photos}", "--checkpoint=x", argument])
    assert message in capsys.readouterr().err


def test_predict_missing_checkpoint_and_photograph(
    checkpoint, photos, tmp_path, capsys
):
    out = f"--out={tmp_path / 'new' / 'out'}"
    assert predict(tmp_path / "nothing", photos, out) == 1
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert predict(checkpoint, photos / "c.png", out) == 1
    assert "c.png does not exist" in capsys.readouterr().err
    assert predict(checkpoint, "x" * 100_000, out) == 1
    assert len(capsys.readouterr().err) < 2000
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    assert predict(tmp_path / "nothing", photos, f"--out={tmp_path / 'mine'}") == 1
    assert (tmp_path / "mine").is_dir()


def test_predict_beside_the_photographs(checkpoint, photos):
    arguments = [photos / "a.jpg", f"--out={photos}", "--no_overlay"]
    for _ in range(2):  # its own JSON is replaced
        assert predict(checkpoint, *arguments) == 0
    annotation = photos / "a.json"
    assert json.loads(annotation.read_text())["images"][0]["width"] == 40
    annotation.write_text('{"shapes": []}')
    assert predict(checkpoint, *arguments) == 1
    assert annotation.read_text() == '{"shapes": []}'


def test_predict_interrupted(checkpoint, photos, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", stop)
    arguments = [photos / "a.png", "--explain", f"--out={tmp_path / 'out'}"]
    assert predict(checkpoint, *arguments) == 130
    assert "stopped" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["a.explain.png", "a.json", "a.png"]
