"""Fixtures of the tests of data/."""

import pytest

from tests.datasets.own_coco import OwnData


@pytest.fixture
def own(tmp_path):
    """Returns a user's photographs and COCO JSON, which a test may change."""
    return OwnData(tmp_path)
