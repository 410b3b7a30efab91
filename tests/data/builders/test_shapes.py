import colorsys
import itertools
import math

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import stats

from imae_jax.data import image_io
from imae_jax.data.builders import shape_outlines, shapes
from imae_jax.data.load import load
from imae_jax.errors import UserError

CATEGORIES = {
    "label": shapes.CLASSES,
    "colour": shapes.COLOURS,
    "background": shapes.BACKGROUNDS,
}
RANGES = {
    "size": shapes.SIZES,
    "x": shapes.CENTRES,
    "y": shapes.CENTRES,
    "rotation": (0, 2 * math.pi),
}
PIXELS = np.arange(shapes.SIDE) + 0.5


def mask(name, *, size=12.0, x=16.0, y=16.0, rotation=0.0):
    return shape_outlines.coverage(
        shape_outlines.placed(name, size, x, y, rotation), shapes.SIDE
    )


def apart(one, other):
    """The share of an object's area in which two differ."""
    return np.abs(one - other).sum() / one.sum()


def centre(covered):
    return covered.sum(0) @ PIXELS / covered.sum(), covered.sum(1) @ PIXELS / covered.sum()


def test_a_picture_depends_on_its_index_alone():
    first = [shapes.draw(index) for index in (3, 4, 5)]
    for index, (picture, factors) in zip((5, 4, 3), first[::-1], strict=True):
        again, same_factors = shapes.draw(index)
        np.testing.assert_array_equal(picture, again)
        assert factors == same_factors
    assert len({picture.tobytes() for picture, _ in first}) == 3


def test_pictures_are_the_same_everywhere_and_for_ever():
    picture, factors = shapes.draw(7)
    expected = dict(
        label=4,
        colour=0,
        background=0,
        size=11.181462,
        x=15.536567,
        y=15.451275,
        rotation=0.520516,
    )
    assert factors == pytest.approx(expected)
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), [74.63, 44.00, 50.24], atol=0.01)


def test_splits_share_no_picture():
    ranges = [shapes.indices(split) for split in shapes.SPLITS]
    assert [len(each) for each in ranges] == [20_000, 2_000, 2_000]
    assert len(set(itertools.chain(*ranges))) == 24_000


@pytest.fixture(scope="module")
def factors():
    """Factors of 3,000 pictures in cells: categories as they are, ranges in five parts."""
    drawn = [shapes.draw(index)[1] for index in range(3000)]
    assert set(drawn[0]) == CATEGORIES.keys() | RANGES.keys()
    values = {name: np.array([each[name] for each in drawn]) for name in drawn[0]}
    cells = {name: values[name] for name in CATEGORIES}
    for name, (low, high) in RANGES.items():
        assert values[name].min() >= low and values[name].max() < high
        cells[name] = ((values[name] - low) / (high - low) * 5).astype(int)
    return cells


@pytest.mark.parametrize("name", [*CATEGORIES, *RANGES])
def test_factors_are_uniform(factors, name):
    counts = np.bincount(factors[name])
    assert len(counts) == len(CATEGORIES.get(name, range(5)))
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    "names", list(itertools.combinations([*CATEGORIES, *RANGES], 2)), ids="-".join
)
def test_factors_are_independent(factors, names):
    table = stats.contingency.crosstab(*(factors[name] for name in names)).count
    assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("index", range(100, 130))
def test_the_object_is_what_the_factors_say(index, monkeypatch):
    picture, factors = shapes.draw(index)
    with monkeypatch.context() as patch:
        patch.setattr(shape_outlines, "coverage", lambda _, side: np.zeros((side, side)))
        empty = shapes.draw(index)[0].astype(float)
    colour = list(shapes.COLOURS.values())[factors["colour"]]
    # Of each pixel, the share that is the object's: picture = empty + share * contrast.
    contrast = colour - empty
    share = ((picture - empty) * contrast).sum(-1) / (contrast**2).sum(-1)

    assert (picture[share > 0.999] == colour).all() and (share > 0.999).sum() > 20
    assert share.sum() == pytest.approx(factors["size"] ** 2, rel=0.02)
    assert centre(share) == pytest.approx((factors["x"], factors["y"]), abs=0.1)
    geometry = {name: factors[name] for name in ("size", "x", "y", "rotation")}
    expected = mask(shapes.CLASSES[factors["label"]], **geometry)
    np.testing.assert_allclose(share, expected, atol=0.02)
    # Nothing of it lies outside the picture, and no corner of the picture is covered.
    assert share[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0


@pytest.mark.parametrize("index", range(100, 130))
def test_label_maps_are_where_the_object_is_seen(index, monkeypatch):
    picture, label_map, factors = shapes.draw_scene(index)
    with monkeypatch.context() as patch:
        patch.setattr(shape_outlines, "coverage", lambda _, side: np.zeros((side, side)))
        empty = shapes.draw(index)[0].astype(float)
    assert label_map.dtype == np.uint8 and label_map.shape == (32, 32)
    assert set(np.unique(label_map)) == {0, 1 + factors["label"]}
    assert shapes.PIXEL_CLASSES[label_map.max()] == shapes.CLASSES[factors["label"]]
    # Nearer to the object's colour than to the background of the same pixel.
    colour = list(shapes.COLOURS.values())[factors["colour"]]
    is_object = np.abs(picture - colour).sum(-1) < np.abs(picture - empty).sum(-1)
    wrong = is_object != (label_map > 0)
    assert wrong.sum() <= 2  # rounded colours of pixels that are covered by half
    assert (label_map > 0).sum() == pytest.approx(factors["size"] ** 2, rel=0.06)


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_area_and_centre_do_not_depend_on_shape_or_rotation(name):
    low, high = shapes.CENTRES
    for size, rotation in itertools.product(shapes.SIZES, np.linspace(0, 6, 13)):
        for x, y in ((low, high), (high, low), (15.3, 16.2)):
            covered = mask(name, size=size, x=x, y=y, rotation=rotation)
            assert covered.min() >= 0 and covered.max() <= 1 + 1e-9
            assert covered.sum() == pytest.approx(size**2, rel=0.015)
            assert centre(covered) == pytest.approx((x, y), abs=0.07)


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_rotation_is_clockwise_in_radians(name):
    for rotation in (0.3, 1.4, 4.0):
        turned = mask(name, rotation=rotation + math.pi / 2)
        expected = np.rot90(mask(name, rotation=rotation), k=-1)
        assert apart(turned, expected) < 0.03


def test_unrotated_shapes_point_right():
    widths = {name: mask(name).sum(axis=0) for name in ("arrow", "heart", "crescent")}
    assert widths["arrow"].argmax() > 15 and widths["heart"].argmax() < 16
    crescent = mask("crescent")
    assert crescent[16].nonzero()[0].max() < crescent.any(axis=0).nonzero()[0].max() - 3


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_symmetry_orders(name):
    order = shape_outlines.SYMMETRY[name]
    for rotation in (0.2, 1.7):
        one = mask(name, rotation=rotation)
        if not order:
            assert apart(one, mask(name, rotation=rotation + 0.77)) < 0.02
            continue
        part = 2 * math.pi / order
        np.testing.assert_allclose(one, mask(name, rotation=rotation + part), atol=1e-6)
        for times in (2, 3, 5):  # no finer symmetry
            assert apart(one, mask(name, rotation=rotation + part / times)) > 0.1


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_the_mirror_image_is_a_rotation(name):
    mirrored = mask(name, rotation=-0.4)[::-1]
    assert apart(mask(name, rotation=0.4), mirrored) < 0.03


@pytest.mark.parametrize(
    "names", list(itertools.combinations(shapes.CLASSES, 2)), ids="-".join
)
def test_no_two_classes_look_alike_at_any_rotation(names):
    one = mask(names[0])
    others = [mask(names[1], rotation=rotation) for rotation in np.linspace(0, 6.28, 33)]
    assert min(apart(one, other) for other in others) > 0.15


def test_backgrounds_differ_in_kind_and_stay_darker_than_objects():
    drawn = [
        shapes.draw_background(np.random.RandomState(0), kind)
        for kind in range(len(shapes.BACKGROUNDS))
    ]
    for one, other in itertools.combinations(drawn, 2):
        assert np.abs(one - other).max() > 8
    for seed in range(20):
        picture = shapes.draw_background(np.random.RandomState(seed), seed % 4)
        assert picture.shape == (32, 32, 3)
        assert picture.min() >= 0 and picture.max() < min(map(max, shapes.COLOURS.values()))


def test_colours_are_bright_saturated_and_apart():
    hues = []
    for colour in shapes.COLOURS.values():
        hue, saturation, value = colorsys.rgb_to_hsv(*(each / 255 for each in colour))
        assert saturation > 0.5 and value > 0.8  # backgrounds: at most 0.3 and 0.3
        hues.append(hue)
    gaps = np.diff(sorted(hues), append=1 + min(hues))
    assert gaps.min() > 0.05


def test_png_keeps_every_pixel():
    picture = shapes.draw(0)[0]
    np.testing.assert_array_equal(np.array(Image.open(image_io.png(picture))), picture)


def test_the_builder_stores_what_is_drawn(tmp_path, monkeypatch):
    sizes = {"train": 12, "validation": 3, "test": 4}
    monkeypatch.setattr(shapes, "SPLITS", sizes)
    builder = shapes.Shapes(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    assert builder.info.features["label"].names == list(shapes.CLASSES)
    assert builder.info.features["colour"].names == list(shapes.COLOURS)
    assert builder.info.features["background"].names == list(shapes.BACKGROUNDS)
    assert builder.info.features["label_map"].names == list(shapes.PIXEL_CLASSES)
    for split, size in sizes.items():
        stored = list(builder.as_data_source(split))
        assert len(stored) == size
        drawn = {
            picture.tobytes(): (label_map, factors)
            for picture, label_map, factors in map(shapes.draw_scene, shapes.indices(split))
        }
        for example in stored:
            label_map, factors = drawn.pop(example.pop("image").tobytes())
            stored_map = example.pop("label_map")[..., 0]
            np.testing.assert_array_equal(stored_map, label_map)
            assert example == pytest.approx(factors, rel=1e-6)
        assert not drawn


def test_a_copy_of_before_label_maps_is_not_read(tmp_path, monkeypatch):
    """Version 1.0.0 had none: it stays where it is, and 1.1.0 is prepared beside it."""
    monkeypatch.setattr(shapes, "SPLITS", {"train": 12, "validation": 3, "test": 4})
    features = shapes.Shapes._info

    def without(self):
        found = features(self)
        kept = {name: x for name, x in found.features.items() if name != "label_map"}
        kept = tfds.features.FeaturesDict(kept)
        return tfds.core.DatasetInfo(builder=self, features=kept)

    with monkeypatch.context() as patch:
        patch.setattr(shapes.Shapes, "VERSION", tfds.core.Version("1.0.0"))
        patch.setattr(shapes.Shapes, "_info", without)
        generate = shapes.Shapes._generate_examples

        def few(self, pictures):
            for key, example in generate(self, pictures):
                del example["label_map"]
                yield key, example

        patch.setattr(shapes.Shapes, "_generate_examples", few)
        old = load("shapes", str(tmp_path))
    assert old.pixel_classes == () and old.splits["test"].label_maps is None
    new = load("shapes", str(tmp_path))
    assert new.path == tmp_path / "shapes" / "1.1.0" and old.path.exists()
    assert new.pixel_classes == shapes.PIXEL_CLASSES
    for again in (new, load("shapes", str(tmp_path))):  # the second from the cache
        for name, split in again.splits.items():
            before = old.splits[name]
            np.testing.assert_array_equal(split.images, before.images)
            np.testing.assert_array_equal(split.labels, before.labels)
            assert split.factors.keys() == before.factors.keys()
            for factor, values in split.factors.items():
                np.testing.assert_array_equal(values, before.factors[factor])
            # In the images' order: the classes are those of the images.
            np.testing.assert_array_equal(split.label_maps.max((1, 2)), 1 + split.labels)
            assert split.label_maps.dtype == np.uint8
            taken = split.take(np.array([2, 0]))
            np.testing.assert_array_equal(taken.label_maps, split.label_maps[[2, 0]])


def test_a_label_map_that_is_damaged_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 4, "validation": 3, "test": 4})
    monkeypatch.setattr(
        shapes, "draw_label_map", lambda *_: np.full((32, 32), 11, np.uint8)
    )
    with pytest.raises(UserError, match="1.1.0 is damaged .*label map .* holds 11"):
        load("shapes", str(tmp_path))
