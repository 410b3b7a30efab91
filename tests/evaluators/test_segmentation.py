"""The evaluator `segmentation`: encoders of known answers, its controls and its tables."""

import dataclasses
import types

import numpy as np
import pytest

from configs import datasets, demo, imae, mae
from imae_jax import evaluation, linear_segmentation
from imae_jax.data.load import Dataset, Split
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.registry import all_evaluators
from imae_jax.evaluators.segmentation import few
from imae_jax.models.patches import patchify

EVALUATOR = all_evaluators()["segmentation"]
CLASSES = ("ground", "left", "right", "never")
COUNTS = dict(train=60, validation=30, test=40)
SIDE = 2  # of a patch; 2x4 patches of an image


def make_split(seed):
    """Upright bands of a patch's width, whose class is in each pixel's least bits.

    Twice as many are of the ground. Colours are noise.
    """
    random = np.random.default_rng(seed)
    count = list(COUNTS.values())[seed]
    bands = random.choice([0, 0, 1, 2], (count, 1, 4)).repeat(2, axis=1)
    maps = bands.repeat(SIDE, axis=1).repeat(SIDE, axis=2).astype(np.uint8)
    noise = random.integers(0, 64, (count, 2 * SIDE, 4 * SIDE, 3))
    images = (4 * noise + maps[..., None]).astype(np.uint8)
    return Split(images, np.zeros(count, int), label_maps=maps)


@pytest.fixture(scope="module")
def made():
    dataset = Dataset(
        splits={name: make_split(seed) for seed, name in enumerate(COUNTS)},
        mean=np.zeros(3, np.float32),  # networks are shown the pixels themselves
        std=np.ones(3, np.float32),
        class_names=(),
        pixel_classes=CLASSES,
    )
    return HeldOut(dataset, SIDE, num_patches=8, mask_ratio=0.5, norm_pix=False)


def reader(images):
    """Tokens that hold the patch's class; a class token of something else."""
    cut = np.asarray(patchify(np.asarray(images), SIDE))
    tokens = np.eye(3)[cut[..., 0].astype(int) % 4]
    return np.concatenate([np.full_like(tokens[:, :1], 9), tokens], axis=1)


def blind(images):
    """Tokens of the colour, which tells nothing."""
    return reader(images) * 0 + np.asarray(images)[:, :1, 0, :] // 4


def measure(made, split="test", batch_size=16, images=1000, **networks):
    networks = {"student": Network(encode=reader)} | networks
    options = dict(split=split, batch_size=batch_size, max_images=images)
    return dict(EVALUATOR.evaluate(networks, made, **options))


@pytest.fixture(scope="module")
def numbers(made):
    others = dict(random=Network(encode=blind), teacher=Network(encode=reader))
    return measure(made, **others)


def test_an_encoder_that_holds_the_class_has_no_error_and_a_blind_one_the_majority(numbers):
    assert numbers["mean_iou"] == numbers["pixel_accuracy"] == 1.0
    assert numbers["baselines/teacher/mean_iou"] == 1.0
    ious = {key: value for key, value in numbers.items() if key.startswith("iou/")}
    assert ious == {"iou/ground": 1.0, "iou/left": 1.0, "iou/right": 1.0}
    majority = {
        metric: numbers[f"majority_class/{metric}"]
        for metric in ("mean_iou", "pixel_accuracy")
    }
    assert majority["mean_iou"] == pytest.approx(majority["pixel_accuracy"] / 3)
    for row in ("random", "raw_pixels", "mean_colour"):
        for metric, value in majority.items():
            assert numbers[f"baselines/{row}/{metric}"] == pytest.approx(value, abs=0.12)
    assert numbers["patch_classes/mean_iou"] == 1.0
    assert numbers["count"] == 40


def test_it_is_what_the_array_function_finds(made):
    """With the same images to choose by, its strength and numbers are the same."""
    noise = Network(encode=lambda images: reader(images) + np.sin(images[:, :1, 0, :] * 9))
    splits = made.dataset.splits
    tokens, maps = {}, {}
    for name, split in splits.items():
        tokens[name] = noise.encode(split.images.astype(np.float32))[:, 1:]
        maps[name] = split.label_maps
    found = linear_segmentation(
        np.concatenate([tokens["train"], tokens["validation"][:15]]),
        np.concatenate([maps["train"], maps["validation"][:15]]),
        tokens["test"],
        maps["test"],
        grid=(2, 4),
    )
    validation = splits["validation"].take(np.arange(15))
    dataset = dataclasses.replace(made.dataset, splits=splits | {"validation": validation})
    own = measure(dataclasses.replace(made, dataset=dataset), student=noise)
    for key in ("mean_iou", "pixel_accuracy", "l2"):
        assert own[key] == pytest.approx(found[key])
    assert 0.3 < own["mean_iou"] < 1


def test_the_colour_baselines_see_the_colours(made):
    """Of patches in a colour for each class, but for a pixel, either reads all there is."""
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    splits = {
        name: dataclasses.replace(split, images=colours[split.label_maps])
        for name, split in made.dataset.splits.items()
    }
    for split in splits.values():
        split.images[:, 1::SIDE, 1::SIDE] = 255
    dataset = dataclasses.replace(made.dataset, splits=splits)
    found = measure(dataclasses.replace(made, dataset=dataset))
    assert found["baselines/raw_pixels/mean_iou"] == 1.0
    assert found["baselines/mean_colour/mean_iou"] == 1.0


def test_numbers_do_not_depend_on_the_batch_size(made, numbers):
    again = measure(made, batch_size=7)
    assert "baselines/random/mean_iou" not in again
    for key, value in again.items():
        assert value == pytest.approx(numbers[key], abs=1e-6)


def test_few_images_are_spread_evenly(made):
    found = few(made, ("train", "test"), 3).dataset.splits
    for name, middle in (("train", 30), ("test", 20)):
        split = made.dataset.splits[name]
        places = [0, middle, COUNTS[name] - 1]
        np.testing.assert_array_equal(found[name].images, split.images[places])
        np.testing.assert_array_equal(found[name].label_maps, split.label_maps[places])
    assert len(few(made, ("test",), 1000).dataset.splits["test"].images) == 40


def test_tables(numbers):
    run = {f"segmentation/{key}": value for key, value in numbers.items()}
    table, classes = EVALUATOR.tables({"mine": run})
    rows = dict(table.rows)
    assert rows["mine"] == ["1.000", "1.000"]
    assert list(rows) == [
        "mine",
        "its teacher",
        "random weights",
        "pixels of the patch, no network",
        "mean colour of the patch, no network",
        "the majority class everywhere",
        "the true majority class of each patch",
    ]
    expected = f"{numbers['baselines/mean_colour/mean_iou']:.3f}"
    assert rows["mean colour of the patch, no network"][0] == expected
    assert classes.rows == [
        ("ground", ["1.000"]),
        ("left", ["1.000"]),
        ("right", ["1.000"]),
    ]
    assert classes.is_control and not table.is_control
    assert all(not each.rows for each in EVALUATOR.tables({"mine": {}}))


def test_data_without_label_maps_are_left_out_by_name(made):
    run = types.SimpleNamespace(held_out=made)
    assert evaluation.not_applicable(run, "segmentation") == ""
    bare = dataclasses.replace(made.dataset, pixel_classes=())
    run = types.SimpleNamespace(held_out=dataclasses.replace(made, dataset=bare))
    reason = evaluation.not_applicable(run, "segmentation")
    assert reason == "the images have no label maps"


def test_it_is_measured_where_images_have_or_may_have_label_maps():
    for module in (mae, imae):
        for preset in [*datasets.PRESETS, "tfds:flowers"]:
            for option in ("", ",runlocal"):
                evals = module.get_config(preset + option).evals
                having = ("shapes", "folder", "folder_small")
                assert ("segmentation" in evals) == (preset in having)
    # The demo does not become slower.
    for preset in ("digits", "shapes"):
        config = demo.get_config(preset)
        for name in ("teacher", "imae_without_distillation", "imae"):
            assert "segmentation" not in config[name].evals
