"""TFDS builder of `shapes`: pictures drawn from known factors."""

import colorsys
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from imae_jax.data.builders import shape_outlines
from imae_jax.data.image_io import png

SPLITS = {"train": 20_000, "validation": 2_000, "test": 2_000}

SIDE = 32
Y, X = np.mgrid[:SIDE, :SIDE]
CLASSES = tuple(shape_outlines.SYMMETRY)
# Classes of pixels, by their value in a label map.
PIXEL_CLASSES = ("background", *CLASSES)
# sRGB; bright and saturated, while backgrounds are dark and muted.
COLOURS = {
    "red": (255, 50, 50),
    "orange": (255, 145, 20),
    "yellow": (250, 235, 40),
    "green": (40, 215, 70),
    "cyan": (40, 225, 235),
    "blue": (55, 105, 255),
    "purple": (165, 75, 255),
    "pink": (255, 120, 205),
}
BACKGROUNDS = ("stripes", "checks", "ripples", "clouds")
# In the order of the classes, see `dataset.Dataset`.
SYMMETRY = {"rotation": tuple(shape_outlines.SYMMETRY.values())}
# Pixels. The largest object extends 13.1 pixels from its centre, so all stay inside.
SIZES = (10.0, 14.0)
CENTRES = (13.1, 18.9)


def draw_factors(random: np.random.RandomState) -> dict:
    """Draws the factors of one picture, each uniformly and independently of the others.

    Returns:
      `label`, `colour` and `background`, int, and `size`, `x`, `y` and `rotation`, float:
      the features of `Shapes` of the same names.
    """
    return dict(
        label=random.randint(len(CLASSES)),
        colour=random.randint(len(COLOURS)),
        size=random.uniform(*SIZES),
        x=random.uniform(*CENTRES),
        y=random.uniform(*CENTRES),
        rotation=random.uniform(0, 2 * math.pi),
        background=random.randint(len(BACKGROUNDS)),
    )


def _wave(random: np.random.RandomState, angle: float) -> np.ndarray:
    """Plane wave of random length and phase: [SIDE, SIDE] in -1..1."""
    along = X * math.cos(angle) + Y * math.sin(angle)
    return np.sin(2 * np.pi * (along / random.uniform(8, 16) + random.uniform()))


def draw_background(random: np.random.RandomState, background: int) -> np.ndarray:
    """Draws a texture between a dark and a less dark muted colour.

    Args:
      random: draws the colours, and the texture's position, scale and direction.
      background: index into `BACKGROUNDS`.
    Returns:
      [SIDE, SIDE, 3] float, 0..255.
    """
    kind = BACKGROUNDS[background]
    angle = random.uniform(0, 2 * math.pi)
    if kind == "stripes":
        texture = _wave(random, angle)
    elif kind == "checks":
        texture = _wave(random, angle) * _wave(random, angle + math.pi / 2)
    elif kind == "ripples":
        radius = np.hypot(X - random.uniform(0, SIDE), Y - random.uniform(0, SIDE))
        texture = np.sin(2 * np.pi * (radius / random.uniform(8, 16) + random.uniform()))
    else:
        waves = [_wave(random, random.uniform(0, 2 * math.pi)) for _ in range(4)]
        texture = np.mean(waves, axis=0)
    hues, saturations = random.uniform(size=2), random.uniform(0, 0.3, size=2)
    values = random.uniform([0.05, 0.2], [0.15, 0.3])
    dark, light = (
        255 * np.array(colorsys.hsv_to_rgb(*colour))
        for colour in zip(hues, saturations, values, strict=True)
    )
    return dark + (texture[:, :, None] + 1) / 2 * (light - dark)


def coverage(factors: dict) -> np.ndarray:
    """Fraction of each pixel that the object of these factors covers: [SIDE, SIDE]."""
    geometry = (factors[name] for name in ("size", "x", "y", "rotation"))
    vertices = shape_outlines.placed(CLASSES[factors["label"]], *geometry)
    return shape_outlines.coverage(vertices, SIDE)


def draw_label_map(covered: np.ndarray, label: int) -> np.ndarray:
    """Draws a label map: a pixel is the object's if the object covers half of it or more.

    Args:
      covered: [SIDE, SIDE], see `coverage`.
      label: the object's class.
    Returns:
      [SIDE, SIDE] uint8, indices into `PIXEL_CLASSES`.
    """
    return np.where(covered >= 0.5, 1 + label, 0).astype(np.uint8)


def draw_scene(index: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Draws scene `index` of the endless series that splits are taken from.

    Returns:
      The picture, [SIDE, SIDE, 3] uint8, its label map, see `draw_label_map`, and its
      factors, see `draw_factors`.
    """
    # Philox: every index has its own stream. RandomState: its draws are frozen across NumPy
    # versions.
    random = np.random.RandomState(np.random.Philox(key=index))
    factors = draw_factors(random)
    picture = draw_background(random, factors["background"])
    covered = coverage(factors)
    colour = list(COLOURS.values())[factors["colour"]]
    picture += covered[:, :, None] * (np.array(colour) - picture)
    label_map = draw_label_map(covered, factors["label"])
    return np.round(picture).astype(np.uint8), label_map, factors


def draw(index: int) -> tuple[np.ndarray, dict]:
    """Returns the picture and the factors of `draw_scene`."""
    picture, _, factors = draw_scene(index)
    return picture, factors


def indices(split: str) -> range:
    """Indices of a split's pictures in the series, see `draw`."""
    # Far apart, so that longer splits only add pictures.
    first = list(SPLITS).index(split) << 32
    return range(first, first + SPLITS[split])


class Shapes(tfds.core.GeneratorBasedBuilder):
    """24,000 drawn pictures, 32x32 colour: one shape of 10 on a textured background.

    The factors describe the object completely; each is drawn uniformly and independently:

    * `label`: the shape.
    * `colour`: one of 8 bright colours; the background's two are dark and muted.
    * `size`: square root of the object's area, in pixels, 10 to 14, whatever its shape.
    * `x`, `y`: its centroid, in pixels from the picture's left and upper border, 13.1 to
      18.9; the centre of the first pixel is at 0.5.
    * `rotation`: clockwise angle from pointing right, in radians, 0 to 2 pi. For a shape
      with n-fold symmetry (`shape_outlines.SYMMETRY`) it is known modulo 2 pi / n: predict
      sin and cos of n times the angle; for discs and rings it is undefined.
    * `background`: the kind of texture. Its colours, position, scale and direction vary.

    `label_map` has the class of each pixel: the background, or the shape. Every shape is a
    rotation of its mirror image. Nothing is read or downloaded.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.1.0": "Label maps; pictures and factors are those of 1.0.0."}
    FORM = ((32, 32, 3), 10, 20_000)
    SYMMETRY = SYMMETRY

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "colour": tfds.features.ClassLabel(names=COLOURS),
            "background": tfds.features.ClassLabel(names=BACKGROUNDS),
            "label_map": tfds.features.LabeledImage(
                labels=list(PIXEL_CLASSES), shape=(SIDE, SIDE, 1), encoding_format="png"
            ),
        }
        for name in ("size", "x", "y", "rotation"):
            features[name] = tfds.features.Scalar(np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(indices(split)) for split in SPLITS}

    def _generate_examples(
        self, pictures: Iterable[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in pictures:
            picture, label_map, factors = draw_scene(index)
            yield index, {"image": png(picture), "label_map": png(label_map), **factors}
