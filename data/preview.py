"""Shows what a prepared dataset holds, before hours go into training on it.

python data/preview.py coco_panoptic --data_dir=~/eomt_data --image_size=640 \
    --out=preview.png

Writes a contact sheet of samples, each photograph beside its segments with their
names; prints how much there is of each class; warns of classes that are too rare and of
objects that are too small to be learnt at the configured size.
"""

import sys

from absl import app, flags, logging
from etils import epath
from tqdm import tqdm

from eomt_jax.cli.standard_output import accept_any_name
from eomt_jax.datasets.preview import (
    count,
    draw_sheet,
    find_problems,
    format_counts,
    spread,
)
from eomt_jax.pipeline import records


def define_flags() -> None:
    """Defines this script's flags; not on import, for tests run `main`."""
    flags.DEFINE_string("data_dir", "~/eomt_data", "Root of prepared datasets.")
    flags.DEFINE_string("split", "train", "Split to show.")
    flags.DEFINE_integer("image_size", 0, "Size to train at; 0: the photographs' own.")
    flags.DEFINE_integer("patch_size", 16, "The network's patch size.")
    flags.DEFINE_integer("num_samples", 12, "Pictures on the sheet.")
    flags.DEFINE_integer("max_images", 5000, "Images to count; 0: all.")
    flags.DEFINE_string("out", "preview.png", "Where the contact sheet goes.")


def main(argv: list[str]) -> None:
    accept_any_name()
    logging.set_verbosity(logging.WARNING)  # TFDS notes every file that it reads
    if len(argv) != 2:
        raise app.UsageError("name one prepared dataset")
    options = flags.FLAGS
    try:
        source = records.open_split(options.data_dir, argv[1], options.split)
    except ValueError as error:
        sys.exit(f"error: {error}")
    info = source.info
    size = options.image_size or max(info.max_image_size)
    chosen = spread(len(source), options.max_images)
    counts = count(
        (source[i] for i in tqdm(chosen, desc="counting", unit="image")),
        info,
        image_size=size,
        patch_size=options.patch_size,
    )
    print(format_counts(counts, info))
    for problem in find_problems(
        counts, info, image_size=size, patch_size=options.patch_size
    ):
        print(f"warning: {problem}")

    samples = [source[i] for i in spread(len(source), options.num_samples)]
    out = epath.Path(options.out).expanduser()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        draw_sheet(samples, info).save(file, format="PNG")
    print(f"wrote {out}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
