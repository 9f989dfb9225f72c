"""Evaluates a constant class and a network, in one of several processes.

python -m tests.meshes.scoring_process DATA_DIR OUT TENSOR
"""

import json
import sys
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from eomt_jax.evaluation import baseline, evaluator
from eomt_jax.evaluation.submission import Submission
from eomt_jax.models.eomt import EOMT_RULES, EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.parallel import processes
from eomt_jax.parallel.mesh import MeshOptions, create_mesh, reader_of
from eomt_jax.parallel.partition import param_shardings, place
from eomt_jax.pipeline import loader, records
from eomt_jax.predict.runner import Runner
from eomt_jax.training.state import param_shapes
from eomt_jax.types import DatasetInfo

TASKS: tuple[tuple[str, str], ...] = (
    ("bars_instance", "instance"),
    ("bars", "panoptic"),
    ("bars", "semantic"),
)


def main(data_dir: str, out: str, tensor: str) -> None:
    processes.initialize()
    mesh = create_mesh(
        MeshOptions(tensor=int(tensor)), devices=paired_devices(int(tensor))
    )
    scores = {"class": {}, "network": {}}
    for name, task in TASKS:
        source = records.open_split(data_dir, name, "train")
        constant = baseline.ConstantClass(0, source.info, task=task, mesh=mesh)
        scores["class"][task] = score(constant, {}, source)
        # Some of its predictions exceed these thresholds and others don't.
        network = Runner(
            network_of(source.info),
            source.info,
            task=task,
            mesh=mesh,
            score_threshold=0.4,
            overlap_threshold=0.3,
        )
        params = draw_params(network_of(source.info), mesh)
        with Submission(f"{out}_{task}", source, task=task) as submission:
            results = score(network, params, source, on_batch=[submission])
        scores["network"][task] = results
    if processes.is_main():
        epath.Path(f"{out}.json").write_text(json.dumps(scores))


def paired_devices(tensor: int) -> list[jax.Device]:
    """Returns all devices; for tensor = 2 each pair has a device of both processes.

    Each of two processes then has the first device of one pair, and so its rows.
    """
    devices = jax.devices()
    if tensor == 1:
        return devices
    a, b, c, d = devices
    return [a, c, d, b]


def score(predictor: Any, params: Any, source: Any, **options: Any) -> dict[str, Any]:
    """Returns the results without times."""
    reader = reader_of(predictor.mesh)
    batches = loader.eval_batches(
        source,
        global_batch_size=4,
        image_size=16,
        task=predictor.task,
        reader_index=reader.index,
        num_readers=reader.count,
    )
    results = evaluator.evaluate(
        predictor, params, batches, info=source.info, source=source, **options
    )
    timing = ("seconds", "images_per_second")
    return {k: v for k, v in results.items() if k not in timing}


def network_of(info: DatasetInfo) -> EoMT:
    vit = ViT(
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_dim=32,
        patch_size=4,
        image_size=(16, 16),
        num_register_tokens=0,
    )
    return EoMT(vit, num_classes=info.num_classes, num_queries=6, num_query_blocks=1)


def draw_params(model: EoMT, mesh: Mesh, *, seed: int = 6) -> Any:
    """Returns parameters with which queries predict different classes surely."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim == 1:
            return np.full(leaf.shape, path[-1].key in ("scale", "gamma"), leaf.dtype)
        return 0.5 * rng.standard_normal(leaf.shape, leaf.dtype)

    # JAX would compile for longer than all else here takes, so NumPy draws them.
    params = jax.tree_util.tree_map_with_path(draw, param_shapes(model))
    return jax.tree.map(place, params, param_shardings(params, mesh, EOMT_RULES))


if __name__ == "__main__":
    main(*sys.argv[1:])
