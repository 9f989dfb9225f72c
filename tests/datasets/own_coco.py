"""Makes a user's folder of photographs with COCO's JSON, and prepares it."""

import json

import pytest

from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets import coco_archives
from tests.datasets.coco_archives import zip_bytes


class OwnData:
    """Pictures in a user's folder, and the dataset prepared from it.

    Photographs have the names photo_0.jpg …, and ids from 7 on.
    """

    def __init__(self, folder):
        self.folder = folder
        self.data_dir = folder / "prepared"
        self.pictures = coco_archives.draw_pictures(6)
        self.photographs = {
            f"photo_{i}.jpg": coco_archives.jpeg(p.image)
            for i, p in enumerate(self.pictures)
        }
        self.maps = {
            f"photo_{i}.png": coco_archives.segments_png(p.id_map)
            for i, p in enumerate(self.pictures)
        }
        ids = {p.image_id: 7 + i for i, p in enumerate(self.pictures)}
        self.panoptic = coco_archives.panoptic_json(self.pictures)
        self.instances = coco_archives.instances_json(self.pictures)
        for table in (self.panoptic, self.instances):
            for row in table["images"]:
                row["id"] = ids[row["id"]]
                row["file_name"] = f"photo_{row['id'] - 7}.jpg"
            for row in table["annotations"]:
                row["image_id"] = ids[row["image_id"]]
                if "file_name" in row:
                    row["file_name"] = f"photo_{row['image_id'] - 7}.png"

    def write(self, name, content):
        """Writes a JSON, zip archive or folder of `content`; returns its path."""
        path = self.folder / name
        if name.endswith(".json"):
            path.write_text(json.dumps(content))
        elif name.endswith(".zip"):
            path.write_bytes(zip_bytes(content))
        else:
            for file, data in content.items():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_bytes(data)
        return str(path)

    def build(self, **options):
        options.setdefault("images", str(self.folder / "photos"))
        return prepare.prepare("mine", self.data_dir, builder="coco_format", **options)

    def build_instances(self, **options):
        self.write("photos", self.photographs)
        options.setdefault("annotations", self.write("mine.json", self.instances))
        return self.build(**options)

    def open(self, split):
        return list(records.open_split(self.data_dir, "mine", split))


def assert_refused(own, match, **options):
    with pytest.raises(ValueError, match=match):
        own.build(**options)
    assert [f for f in own.data_dir.rglob("*") if f.is_file()] == []
