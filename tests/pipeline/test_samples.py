"""Records become samples: alignment, redraws, substitutes, damaged photographs."""

import dataclasses
import pickle

import numpy as np
import pytest
from pycocotools import mask as mask_codec

from eomt_jax.pipeline import samples
from eomt_jax.pipeline.samples import DamagedImageError, TrainOptions

# A pixel is inside a segment if so many neighbours on each side are in it too.
MARGIN = 3


@pytest.fixture
def sampler(drawn_source):
    """Returns a function that makes a TrainSampler over a DrawnSource."""

    def make(num_examples=10, *, seed=0, options=None, **faults):
        return samples.TrainSampler(
            source=drawn_source(num_examples, **faults),
            options=options or TrainOptions(image_size=48),
            seed=seed,
            epoch_length=num_examples,
        )

    return make


class OtherRecords:
    """A source that changes the records of another one."""

    def __init__(self, source):
        self.source, self.info, self.split = source, source.info, source.split

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.change(self.source[index])

    def image_id(self, index):
        return self.source.image_id(index)


def inside(mask):
    """Returns the pixels whose neighbours within MARGIN pixels are in the mask too."""
    core = np.pad(mask, MARGIN)
    core = np.lib.stride_tricks.sliding_window_view(core, (2 * MARGIN + 1,) * 2)
    return core.all(axis=(-1, -2))


def check_masks_fit_colors(sample, class_colors):
    """Checks that targets are exactly where the colours of their classes are.

    Returns the number of pixels that were well inside a target.
    """
    targets = sample["targets"]
    image = sample["image"].astype(int)
    height, width = sample["content_size"]
    checked = 0
    for t in np.flatnonzero(targets["valid"]):
        color = class_colors[targets["labels"][t]]
        mask = targets["id_map"] == t + 1
        core = inside(mask)
        assert (np.abs(image[core] - color) <= 2).all()
        elsewhere = ~mask
        elsewhere[height:], elsewhere[:, width:] = False, False
        assert (np.abs(image - color).max(-1) > 2)[inside(elsewhere)].all()
        checked += core.sum()
    return checked


@pytest.mark.parametrize("scale_range", [(0.4, 0.7), (1.0, 1.0), (1.4, 2.0)])
def test_masks_fit_the_colors_of_the_image_after_augmentation(
    sampler, class_colors, scale_range
):
    options = TrainOptions(image_size=64, scale_range=scale_range)
    sample_at = sampler(options=options)
    checked = 0
    for position in range(20):
        sample = sample_at(position)
        checked += check_masks_fit_colors(sample, class_colors)
        assert sample["image"].shape == (64, 64, 3)
        num_targets = sample["targets"]["valid"].sum()
        present = np.unique(sample["targets"]["id_map"])
        np.testing.assert_array_equal(present[present > 0], 1 + np.arange(num_targets))
    assert checked > 500


def test_instances_are_augmented_as_an_id_map_of_the_same_segments(sampler):
    class Instances(OtherRecords):
        def change(self, record):
            masks = np.asfortranarray(record.masks(), np.uint8)
            rles = tuple(rle["counts"] for rle in mask_codec.encode(masks))
            return dataclasses.replace(record, segment_map=None, rles=rles)

    segments = sampler(options=TrainOptions(image_size=48, max_targets=9))
    instances = dataclasses.replace(segments, source=Instances(segments.source))
    for position in range(10):
        expected, found = segments(position), instances(position)
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(
            found["targets"]["labels"], expected["targets"]["labels"]
        )
        assert found["targets"]["mask_bits"].shape == (48, 48, 2)
        np.testing.assert_array_equal(
            np.unpackbits(found["targets"]["mask_bits"], axis=-1, bitorder="little"),
            expected["targets"]["id_map"][..., None] == np.arange(1, 17),
        )


def test_sample_is_a_function_of_seed_and_position(sampler):
    options = TrainOptions(image_size=48, color_jitter=True)
    first, again = (sampler(options=options)(7) for _ in range(2))
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(
        first["targets"]["id_map"], again["targets"]["id_map"]
    )
    other_seed = sampler(options=options, seed=1)(7)["image"]
    assert (other_seed != first["image"]).any()
    # The same photograph one epoch later is augmented anew.
    index = first["example_index"]
    later = next(
        sample
        for sample in map(sampler(options=options), range(10, 20))
        if sample["example_index"] == index
    )
    assert (later["image"] != first["image"]).any()


def test_sample_needs_at_most_twice_its_images_bytes(sampler):
    sample = sampler(options=TrainOptions(image_size=64, max_targets=255))(0)
    arrays = [np.asarray(v) for k, v in sample.items() if k != "targets"]
    arrays += sample["targets"].values()
    assert sum(array.nbytes for array in arrays) <= 2 * 3 * 64 * 64


def test_record_without_segments_is_a_negative(sampler):
    """It becomes a sample without a target; one with only crowds is replaced."""

    class Empty(OtherRecords):
        def change(self, record):
            none = np.zeros(0, np.int32)
            return dataclasses.replace(
                record,
                segment_map=None,
                rles=(),
                areas=none,
                labels=none,
                is_crowd=none.astype(bool),
            )

    sample_at = sampler(options=TrainOptions(image_size=48, max_targets=4))
    sample = dataclasses.replace(sample_at, source=Empty(sample_at.source))(3)
    assert not sample["replaced"]
    assert not sample["targets"]["valid"].any()
    assert not sample["targets"]["mask_bits"].any()
    assert sample["image"].any()
    assert sample["example_index"] == sample_at(3)["example_index"]


def test_crowds_are_no_targets(sampler):
    class SomeCrowds(OtherRecords):
        def change(self, record):
            return dataclasses.replace(record, is_crowd=np.array([False, True, False]))

    sample_at = sampler(options=TrainOptions(image_size=64, scale_range=(1.0, 1.0)))
    sample_at = dataclasses.replace(sample_at, source=SomeCrowds(sample_at.source))
    for position in range(10):
        sample = sample_at(position)
        crowd_label = sample_at.source[sample["example_index"]].labels[1]
        targets = sample["targets"]
        assert not targets["is_crowd"].any() and targets["valid"].sum() == 2
        assert crowd_label not in targets["labels"][targets["valid"]]


def test_crop_without_targets_is_drawn_again(drawn_source):
    class OnePixel:
        """A split of a photograph with one pixel in 48 × 80 of a target."""

        def __init__(self):
            self.source = drawn_source(1)
            self.info, self.split = self.source.info, "train"

        def __len__(self):
            return 1

        def __getitem__(self, index):
            record = self.source[index]
            segment_map = np.zeros_like(record.segment_map)
            segment_map[10, 10] = 1
            return dataclasses.replace(
                record,
                segment_map=segment_map,
                labels=record.labels[:1],
                is_crowd=np.zeros(1, bool),
            )

        def image_id(self, index):
            return "pixel"

    sample_at = samples.TrainSampler(
        source=OnePixel(),
        options=TrainOptions(image_size=48, scale_range=(2.0, 2.0)),
        seed=0,
        epoch_length=1,
    )
    for position in range(30):
        sample = sample_at(position)
        assert sample["targets"]["valid"].sum() == 1
        assert (sample["targets"]["id_map"] == 1).any()


def test_photograph_with_crowds_only_is_replaced_and_marked(sampler):
    sample_at = sampler(crowd_only={2, 5})
    intact = sampler()
    for position in range(20):
        sample, expected = sample_at(position), intact(position)
        was_crowd = int(expected["example_index"]) in {2, 5}
        assert sample["replaced"] == was_crowd
        if was_crowd:
            assert int(sample["example_index"]) not in {2, 5}
        else:
            np.testing.assert_array_equal(sample["image"], expected["image"])


def test_split_without_any_target_ends_in_an_error(sampler):
    with pytest.raises(ValueError, match="17 photographs in a row of dataset 'drawn'"):
        sampler(3, crowd_only={0, 1, 2})(0)


def test_damaged_image_stops_with_its_name(sampler):
    sample_at = sampler(damaged={4})
    with pytest.raises(
        DamagedImageError,
        match="'photo-004' in dataset 'drawn', split 'train'.*on_damaged",
    ) as caught:
        list(map(sample_at, range(10)))
    # Worker processes pass errors on by pickling.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_damaged_image_is_replaced_by_the_same_one_each_time(sampler):
    options = TrainOptions(image_size=48, on_damaged="replace")
    replaced = [
        [s["example_index"] for s in map(sample_at, range(20)) if s["replaced"]]
        for sample_at in [sampler(damaged={4}, options=options) for _ in range(2)]
    ]
    assert replaced[0] == replaced[1]
    assert len(replaced[0]) == 2 and 4 not in replaced[0]


def test_image_of_another_size_than_its_segments_counts_as_damaged(
    sampler, monkeypatch
):
    sample_at = sampler()
    record = sample_at.source[0]
    cut = dataclasses.replace(record, segment_map=record.segment_map[:-1])
    monkeypatch.setattr(type(sample_at.source), "__getitem__", lambda self, index: cut)
    with pytest.raises(DamagedImageError, match="pixels, its segments"):
        sample_at(0)


def test_more_targets_than_fit_is_an_error_that_names_the_image(sampler):
    options = TrainOptions(image_size=48, max_targets=2)
    with pytest.raises(ValueError, match=r"image 'photo-\d+' .*dataset\.max_targets"):
        sampler(options=options)(0)


def test_max_targets_comes_from_the_dataset_where_it_is_0(sampler):
    sample = sampler(max_segments=6)(0)
    assert sample["targets"]["labels"].shape == (6,)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": 0},
        {"image_size": 8, "scale_range": (0.0, 1.0)},
        {"image_size": 8, "scale_range": (2.0, 1.0)},
        {"image_size": 8, "max_targets": -1},
        {"image_size": 8, "on_damaged": "ignore"},
    ],
)
def test_train_options_refuse_what_makes_no_sense(fields):
    with pytest.raises((ValueError, TypeError)):
        TrainOptions(**fields)


def test_example_order_is_a_permutation_that_differs_by_seed_and_epoch():
    orders = [
        samples.example_order(100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)
    ]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert len({order.tobytes() for order in orders}) == 4
    # An epoch of the next seed must not be the next epoch of this seed.
    assert (samples.example_order(100, 0, 1) != samples.example_order(100, 1, 0)).any()


def test_example_order_never_changes_between_versions():
    # After a restart, another order would repeat and skip examples.
    assert samples.example_order(8, 0, 0).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
