"""One of the processes of test_several_processes: scores a constant class.

python -m tests.evaluation.scoring_process DATA_DIR OUT
"""

import json
import sys

import jax
from etils import epath

from eomt_jax.evaluation import baseline, evaluator
from eomt_jax.evaluation.submission import Submission
from eomt_jax.parallel import processes
from eomt_jax.parallel.mesh import create_mesh
from eomt_jax.pipeline import loader, records

TASKS = (("bars_instance", "instance"), ("bars", "panoptic"), ("bars", "semantic"))


def main(data_dir: str, out: str) -> None:
    processes.initialize()
    mesh = create_mesh()
    scores = {}
    for name, task in TASKS:
        source = records.open_split(data_dir, name, "train")
        with Submission(f"{out}_{task}", source, task=task) as submission:
            results = evaluator.evaluate(
                baseline.ConstantClass(0, source.info, task=task, mesh=mesh),
                {},
                loader.eval_batches(
                    source,
                    global_batch_size=4,
                    image_size=16,
                    task=task,
                    process_index=jax.process_index(),
                    process_count=jax.process_count(),
                ),
                info=source.info,
                source=source,
                on_batch=[submission],
            )
        timing = ("seconds", "images_per_second")
        scores[task] = {k: v for k, v in results.items() if k not in timing}
    if processes.is_main():
        epath.Path(f"{out}.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(*sys.argv[1:])
