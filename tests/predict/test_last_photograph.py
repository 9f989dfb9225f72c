import numpy as np
import pytest
from PIL import Image

from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.last_photograph import LastPhotograph
from eomt_jax.predict.programs import CompiledNetwork
from tests.predict.channel_network import INFO, BrightestChannel, channel_params
from tests.predict.test_segmenter import photograph, segmenter


class CountingNetwork(CompiledNetwork):
    """Compiles nothing, and remembers what it was asked."""

    def __init__(self):
        super().__init__(BrightestChannel(), channel_params(), INFO, batch_size=1)
        self.seen, self.thresholds = [], []

    def logits(self, images, *, factored):
        self.seen.append((len(images), factored))
        return [(None, np.zeros((3, 5)))] * len(images)

    def post_process(self, logits, content_size, size, task, threshold, **options):
        self.thresholds.append(threshold)
        return Segmentation(labels=np.array([0]), id_map=np.ones(size, int))


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(photograph((24, 60))).save(path)
    return paths


def test_network_runs_once_for_all_thresholds_of_a_photograph(paths):
    network = CountingNetwork()
    segment = LastPhotograph(network)
    segment(paths[0], task="panoptic", threshold=0.8)
    assert segment.network_seconds > 0
    segment(paths[0], task="panoptic", threshold=0.3)
    segment(paths[0], task="instance", threshold=0.5)
    assert segment.network_seconds == 0
    assert network.seen == [(1, True)]
    assert network.thresholds == [0.8, 0.3, 0.5]


def test_network_runs_again_for_windows_and_other_photographs(paths):
    network = CountingNetwork()
    segment = LastPhotograph(network)
    for path, task in [(0, "panoptic"), (0, "semantic"), (1, "semantic")]:
        segment(paths[path], task=task, threshold=0.0)
    # The photograph is 2.5 times as wide as high.
    assert network.seen == [(1, True), (3, False), (3, False)]


def test_photograph_that_cannot_be_read_leaves_nothing_kept(paths):
    network = CountingNetwork()
    segment = LastPhotograph(network)
    segment(paths[0], task="panoptic", threshold=0.8)
    paths[1].write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"b\.png is empty"):
            segment(paths[1], task="panoptic", threshold=0.8)
    segment(paths[0], task="panoptic", threshold=0.8)
    assert len(network.seen) == 2


def test_segments_are_those_of_the_segmenter(paths):
    expected = segmenter()(paths[0])
    segment = LastPhotograph(segmenter().network, skip_padding=True)
    found = segment(paths[0], task="panoptic", threshold=0.8)
    np.testing.assert_array_equal(found.id_map, expected.id_map)
    assert found.segments == expected.segments
    assert len(found.segments) == 3
