"""Small images, folders and data sets that several tests use."""

import io

import mock_archives
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def encoded(array, kind="png", **options):
    """An array, or a Pillow image, as a file."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def make_folder(root, *names, size=(20, 24)):
    """Image files below a folder, each of a brightness of its own."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (number, 100, 200)).save(path)
    return root


class Flowers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images of any size, as TFDS prepares them."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="large", version="1.2.0")]

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["ant", "bee"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(60)}

    def _generate_examples(self, count):
        for i in range(count):
            image = io.BytesIO(mock_archives.jpeg(size=(50 + i, 70)))
            yield i, {"image": image, "label": i % 2}
