"""Attributes: planted ones are found where they were planted, and nowhere else."""

import dataclasses
import math

import numpy as np
import oracle
import pytest

from configs import datasets, imae, mae
from imae_jax import evaluation
from imae_jax.data.builders import shape_outlines, shapes
from imae_jax.data.load import Dataset, Split, load
from imae_jax.errors import UserError
from imae_jax.evaluators import attributes, factor_probes, semantics
from imae_jax.evaluators.factor_targets import as_factor, factors_of
from imae_jax.evaluators.metric_names import count_of
from imae_jax.evaluators.networks import Network
from imae_jax.models.branches import branch_names
from imae_jax.report import summary
from imae_jax.storage import atomic_files
from imae_jax.storage.workdir import read_config
from imae_jax.training.loop import train

BRANCHES = branch_names(2)
SYMMETRY = (1, 0, 4, 3)  # of four classes
NUMBERS = {"label": 4, "colour": 5}  # of categories
# An image's first pixels are its factors in these units; the others are noise.
UNITS = {"label": 60, "colour": 50, "size": 0.01, "rotation": 0.03}
METRIC = {"label": "accuracy", "colour": "accuracy", "size": "r2", "rotation": "r2"}
COUNTS = dict(train=400, validation=160, test=300)


def read(pixels):
    """[..., 64] pixels, 0 to 255 -> the factors that they are, [...] by name."""
    found = {}
    for column, (name, unit) in enumerate(UNITS.items()):
        value = pixels[..., column]
        is_category = name in NUMBERS
        found[name] = (value // unit).astype(int) if is_category else value * unit
    return found


def make_split(seed):
    count = list(COUNTS.values())[seed]
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 64)).astype(np.float32)
    for column, (name, number) in enumerate(NUMBERS.items()):
        pixels[:, column] = UNITS[name] * random.integers(0, number, count)
    images = pixels.reshape(count, 8, 8, 1).astype(np.uint8)
    factors = read(pixels)
    return Split(images, factors.pop("label"), factors)


@pytest.fixture(scope="module")
def dataset():
    return Dataset(
        splits={name: make_split(seed) for seed, name in enumerate(COUNTS)},
        mean=np.zeros(1, np.float32),  # networks are shown the pixels themselves
        std=np.ones(1, np.float32),
        class_names=tuple("abcd"),
        symmetry={"rotation": SYMMETRY},
    )


@pytest.fixture(scope="module")
def made(dataset):
    return oracle.held_out(dataset)


def carry(name, pixels):
    """What latents that know one factor of an image hold, [..., 5]."""
    known = read(pixels)
    if name in NUMBERS:
        found = np.eye(5)[known[name]]
    elif name == "size":
        found = known[name][..., None]
    else:  # of class 1, of which it cannot be told, what nobody asks for
        angle = np.maximum(np.take(SYMMETRY, known["label"]), 1) * known[name]
        found = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, 5 - found.shape[-1])])


def noise(pixels):
    return pixels[..., -3:] / 100


def planted(made, places, alphas=(0.3,), scale=1.0):
    """An i-MAE whose branch b knows (factor, image) places[b] and noise of that image.

    What it knows of the factor is as large as `scale`.
    Its class token knows nothing.
    """

    def latents(sources, labels):
        pixels = sources.reshape(*sources.shape[:2], 64)
        branches = [
            np.concatenate([scale * carry(name, own), noise(own)], axis=-1)
            for name, s in places
            for own in [pixels[:, s]]
        ]
        return np.stack(branches, axis=1).astype(np.float32)

    student = oracle.student(made, alphas, latents=latents)

    def predict(images, mask):
        found = student.predict(images, mask)["latents"]
        found[:, :, 0] = 1000 * found[:, ::-1, 0, ::-1]
        return {"latents": found}

    return Network(predict=predict, embed=None)


def reader():
    """A MAE whose latents hold every factor of the one image it takes what it sees for."""

    def predict(images, mask):
        pixels = np.asarray(images).reshape(len(images), 64)
        vectors = np.concatenate([carry(name, pixels) for name in UNITS], axis=-1)
        latents = np.stack([vectors] * (mask.ids_keep.shape[1] + 1), axis=1)
        return {"latents": latents.astype(np.float32)}

    return Network(predict=predict, embed=None)


def evaluate(made, student, *, alphas=(), batch_size=128, **baselines):
    networks = {"student": student, "teacher": reader(), **baselines}
    options = dict(split="test", alpha=0.3, alphas=alphas, seed=0, batch_size=batch_size)
    return dict(attributes.EVALUATOR.evaluate(networks, made, **options))


def knows(found, row, s, name, whose=""):
    """Whether a probe finds all there is of a factor, or nothing; else fails."""
    value = found[f"{row}{BRANCHES[s]}/{name}/{whose}{METRIC[name]}"]
    if name in NUMBERS:
        # By exclusion: the other image's category is never one's own.
        nothing = max(found[f"{name}/chance"], 1 / (NUMBERS[name] - 1)) + 0.1
    else:
        nothing = 0.06
    assert value > 0.98 or value < nothing, (row, s, name, whose, value)
    assert value > -0.1
    return value > 0.98


def test_only_fits_that_many_factors_share_are_padded(made, monkeypatch):
    """Of semantics zeros would change the last bits, and with them a mixture's class."""
    widths = {}

    def record(features, factors, s, what):
        widths.setdefault(what.partition(",")[0], set()).add(features[0].shape[1])
        return "accuracy", 0.5

    monkeypatch.setattr(factor_probes, "probe", record)
    networks = {"student": planted(made, [("size", 0), ("size", 1)]), "teacher": reader()}
    options = dict(split="test", alpha=0.3, alphas=(), seed=0, batch_size=128)
    for module in attributes, semantics:
        dict(module.EVALUATOR.evaluate(networks, made, **options))
    # Eight latents of the student and five of each factor of the teacher, of which the
    # first hold four directions that vary: one of the size, three of noise.
    assert widths["attributes"] == {8, 5 * len(UNITS)}
    assert 4 in widths["semantics"] and not widths["semantics"] & widths["attributes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "places",
    [
        [("colour", 0), ("size", 1)],
        [("size", 0), ("rotation", 1)],
        [("rotation", 0), ("label", 1)],
        [("label", 1), ("colour", 0)],  # exchanged
        [("rotation", 1), ("size", 1)],  # one branch with nothing of its own
    ],
    ids=str,
)
def test_a_planted_factor_is_found_where_it_is_and_nowhere_else(made, places):
    found = evaluate(made, planted(made, places))
    for s in range(2):
        for name in UNITS:
            for whose, branch in (("", s), ("other_branch_", 1 - s)):
                is_there = places[branch] == (name, s)
                assert knows(found, "", s, name, whose) == is_there
            # The teacher is shown that image, or the other.
            assert knows(found, "teacher_on_image/", s, name)
            assert not knows(found, "teacher_on_image/", s, name, "other_branch_")


@pytest.fixture(scope="module")
def batches(made):
    return list(made.batches("test", batch_size=128, seed=0))


def test_batches_tell_their_sources_factors(batches):
    for batch in batches:
        expected = read(batch.sources.reshape(128, 2, 64))
        np.testing.assert_array_equal(batch.labels, expected.pop("label"))
        assert batch.factors.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(batch.factors[name], values, rtol=1e-6)


@pytest.mark.slow
def test_mixtures_that_cannot_be_asked_are_not_counted(made, batches):
    valid = np.concatenate([batch.valid for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])[valid]
    colours = np.concatenate([batch.factors["colour"] for batch in batches])[valid]

    def lies(sources, labels):
        """The colour, but a wrong one where both images are of one."""
        pixels = sources.reshape(*sources.shape[:2], 64)
        colour = read(pixels)["colour"]
        wrong = (colour + (colour[:, :1] == colour[:, 1:])) % 5
        return np.concatenate([np.eye(5)[wrong], noise(pixels)], -1).astype(np.float32)

    found = evaluate(made, oracle.student(made, (0.3,), latents=lies))
    for branch in BRANCHES:
        assert found[f"{branch}/colour/accuracy"] == 1.0
    assert found["size/count"] == len(labels) == 300
    assert found["label/count"] == (labels[:, 0] != labels[:, 1]).sum() < 260
    assert found["colour/count"] == (colours[:, 0] != colours[:, 1]).sum() < 270
    for s in range(2):  # every image is once in each role
        assert found["rotation/count"] == (labels[:, s] != 1).sum() < 260


PLACES = [("colour", 0), ("size", 1)]


@pytest.fixture(scope="module")
def found(made):
    """With a sweep and a baseline."""
    student = planted(made, PLACES, alphas=(0.2, 0.3))
    return evaluate(made, student, alphas=(0.2, 0.3), random=reader())


def test_names(found):
    factors = [f"{name}/{{}}{metric}" for name, metric in METRIC.items()]
    expected = {f"{name}/count" for name in UNITS} | {f"{name}/chance" for name in NUMBERS}
    for row, whose in (
        ("", ("", "other_branch_")),
        ("baselines/mae_on_mixture/", ("",)),
        ("baselines/random/", ("",)),
        ("teacher_on_image/", ("", "other_branch_")),
    ):
        sweep = [""] if row == "teacher_on_image/" else ["", "alpha_0.20/", "alpha_0.30/"]
        expected |= {
            f"{alpha}{row}{branch}/{factor.format(who)}"
            for alpha in sweep
            for branch in BRANCHES
            for factor in factors
            for who in whose
        }
    assert found.keys() == expected
    assert found["subordinate/size/r2"] == found["alpha_0.30/subordinate/size/r2"]
    mixture = "baselines/mae_on_mixture/dominant/size/r2"
    assert found[f"alpha_0.20/{mixture}"] > found[f"alpha_0.30/{mixture}"] == found[mixture]


def test_chance_is_the_commonest_category_where_images_differ(found, made):
    train, test = (
        np.concatenate([batch.labels[batch.different_classes, 0] for batch in batches])
        for batches in (made.batches(x, batch_size=128, seed=0) for x in ("train", "test"))
    )
    assert found["label/chance"] == np.mean(test == np.bincount(train).argmax())


def test_what_is_known_faintly_is_known(made):
    found = evaluate(made, planted(made, PLACES, scale=0.003))
    assert knows(found, "", 0, "colour") and knows(found, "", 1, "size")


@pytest.mark.parametrize("batch_size", [70, 300])
def test_batches_and_their_filling_change_nothing(made, batch_size):
    student = planted(made, PLACES)
    one, other = (evaluate(made, student, batch_size=size) for size in (128, batch_size))
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.slow
def test_of_images_of_which_nothing_else_is_known_the_class_is_read(dataset):
    splits = {
        name: Split(split.images, split.labels) for name, split in dataset.splits.items()
    }
    made = oracle.held_out(dataclasses.replace(dataset, splits=splits, symmetry={}))
    student = planted(made, [("label", 0), ("label", 0)])
    found = evaluate(made, student)
    assert {name.split("/")[-2] for name in found} == {"label"}
    networks = {"student": student, "teacher": reader()}
    options = dict(split="test", alpha=0.3, alphas=(), seed=0, batch_size=128)
    same = dict(semantics.EVALUATOR.evaluate(networks, made, **options))
    assert found["label/count"] == same["count"]
    assert found["label/chance"] == same["chance"]
    for row in ("", "teacher_on_image/", "baselines/mae_on_mixture/"):
        for branch in BRANCHES:
            # Whitened on all mixtures, there on those of two classes.
            assert found[f"{row}{branch}/label/accuracy"] == pytest.approx(
                same[f"{row}{branch}/accuracy"], abs=0.02
            )
    assert found["subordinate/label/other_branch_accuracy"] == 1.0


def test_an_imae_of_one_branch_has_no_other(made):
    student = planted(made, [("colour", 0)])
    found = evaluate(made, student)
    assert found["subordinate/colour/accuracy"] == 1.0
    assert not any(name.startswith("dominant/") for name in found)
    assert "subordinate/colour/other_branch_accuracy" not in found


def test_probes_are_fitted_on_train_and_scored_on_test():
    """Where the test split says the opposite."""
    random = np.random.default_rng(0)
    x = [random.normal(size=(200, 3)) for _ in range(3)]
    signs = (1, 1, -1)
    for made, expected in (
        (lambda z: (z[:, :1] > 0).astype(int), ("accuracy", 0.0)),
        (lambda z: z[:, :1], ("r2", -3.0)),  # 1 - 2**2
    ):
        factors = [
            as_factor(np.concatenate([own, other], axis=1), np.zeros((200, 2), int), None)
            for z, sign in zip(x, signs, strict=True)
            for own, other in [(made(sign * z), made(-sign * z))]
        ]
        metric, value = factor_probes.probe(x, factors, 0, "a test")
        assert metric == expected[0] and value == pytest.approx(expected[1], abs=0.06)


def test_categories_count_where_the_images_differ():
    values = np.array([[0, 1], [2, 2], [1, 0]])
    factor = as_factor(values, 0 * values, None)
    assert factor.is_category
    np.testing.assert_array_equal(factor.counted, [[1, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(factor.of_image(1), [1, 0])


def test_quantities_count_always():
    values = np.array([[0.5, 1.5], [2.5, 2.5]])
    factor = as_factor(values, np.zeros((2, 2), int), None)
    assert not factor.is_category and factor.counted.all()
    np.testing.assert_array_equal(factor.of_image(1), [[1.5], [2.5]])


def test_angles_are_told_as_far_as_the_shape_tells_them():
    disc, square, hourglass, arrow = (
        shapes.CLASSES.index(name) for name in ("disc", "square", "hourglass", "arrow")
    )
    labels = np.array([[square, disc], [square, arrow], [hourglass, square]])
    angles = np.radians([[30, 77], [30 + 90, 90], [180, 45]])
    factor = as_factor(angles, labels, shapes.SYMMETRY["rotation"])
    assert not factor.is_category
    np.testing.assert_array_equal(factor.counted, [[1, 0], [1, 1], [1, 1]])
    half = math.sqrt(3) / 2
    expected = [[-0.5, half], [-0.5, half], [1, 0]]  # 120 degrees twice, 360
    np.testing.assert_allclose(factor.of_image(0), expected, atol=1e-12)
    np.testing.assert_allclose(factor.of_image(1), [[0, 1], [-1, 0]], atol=1e-12)


def test_the_declared_symmetry_is_that_of_the_classes():
    declared = shapes.SYMMETRY["rotation"]
    assert dict(zip(shapes.CLASSES, declared, strict=True)) == shape_outlines.SYMMETRY


@pytest.mark.parametrize(
    "name,values,message",
    [
        (
            "size",
            [[1.0, 1.0], [1.0, 1.0]],
            "the test split has no .* differ in size",
        ),
        ("colour", [[1, 1], [2, 2]], "the test split has no mixtures whose .* in colour"),
        (
            "rotation",
            [[1.0, 2.0], [2.0, 1.0]],
            "no mixtures .* differ in rotation",
        ),
        ("size", [[1.0, np.nan], [np.nan, 1.0]], "the test split: size is not finite"),
    ],
)
def test_factors_that_cannot_be_learned_get_one_line(name, values, message):
    labels, values = np.array([[0, 1], [1, 0]]), np.array(values)
    with pytest.raises(UserError, match=message):
        factors_of(labels, {name: values}, {"rotation": (0, 0)}, "the test split")


def test_bad_latents_get_one_line(made):
    broken = planted(made, PLACES)
    nan = Network(
        predict=lambda *x: {"latents": np.nan * broken.predict(*x)["latents"]}, embed=None
    )
    with pytest.raises(UserError, match="attributes, alpha_0.30/subordinate: .* finite"):
        evaluate(made, nan)


@pytest.mark.parametrize(
    "name,alpha,mask_ratio",
    [
        ("attributes/subordinate/size/r2", 0.3, 0.5),
        ("attributes/alpha_0.10/dominant/colour/accuracy", 0.1, 0.5),
        ("attributes/teacher_on_image/dominant/size/other_branch_r2", None, 0.5),
        ("attributes/colour/chance", None, None),
        ("attributes/size/count", None, None),
    ],
)
def test_names_say_how_numbers_were_measured(name, alpha, mask_ratio):
    options = dict(alpha=0.3, alphas=(0.1, 0.3))
    metric = name.removeprefix("attributes/")
    found = attributes.EVALUATOR.conditions(metric, options, 0.5)
    assert found == {"alpha": alpha, "mask_ratio": mask_ratio}


def test_every_number_has_the_count_of_its_factor():
    numbers = {"colour/count": 7, "count": 9}
    assert count_of("alpha_0.10/dominant/colour/accuracy", numbers, 11) == 7
    assert count_of("colour/chance", numbers, 11) == 7
    assert count_of("dominant/accuracy", numbers, 11) == 9
    assert count_of("chance", numbers, 11) == 9
    assert count_of("dominant/accuracy", {}, 11) == 11


def test_the_table_shows_the_numbers(found):
    numbers = {f"attributes/{name}": value for name, value in found.items()}
    settings = {
        f"attributes/{name}": dict(
            count=count_of(name, found, 0), split="test", alpha=0.3, mask_ratio=0.5
        )
        for name in found
    }
    (table,) = summary.all_tables({"mine": numbers}, {"mine": settings})
    columns = ["label", "colour", "rotation", "size"]
    assert table.columns == ["class", *columns[1:]]
    rows = dict(table.rows)
    assert list(rows) == [
        "mine: subordinate",
        "mine: dominant",
        "mine: subordinate, from the other branch",
        "mine: dominant, from the other branch",
        "MAE, shown the mixture: subordinate",
        "MAE, shown the mixture: dominant",
        "random weights: subordinate",
        "random weights: dominant",
        "its teacher, shown the image alone: subordinate",
        "its teacher, shown the image alone: dominant",
        "majority class, or the mean",
        "mixtures that count",
    ]

    def shown(form):
        return [f"{found[form.format(name, METRIC[name])]:.3f}" for name in columns]

    assert rows["mine: dominant"] == shown("dominant/{}/{}")
    other = "dominant/{}/other_branch_{}"
    assert rows["mine: dominant, from the other branch"] == shown(other)
    row = "baselines/random/subordinate/{}/{}"
    assert rows["random weights: subordinate"] == shown(row)
    chances = [f"{found[f'{name}/chance']:.3f}" for name in NUMBERS]
    assert rows["majority class, or the mean"] == [*chances, "0.000", "0.000"]
    counts = [str(found[f"{name}/count"]) for name in columns]
    assert rows["mixtures that count"] == counts
    assert table.run == "mine"
    assert table.note.endswith(
        "Measured on 300 mixtures of the test split, alpha 0.3, mask ratio 0.5."
    )
    text = summary.as_text({"mine": numbers}, {}, 200)
    assert f"  {'mine: subordinate':<49}" in text and "What survives" in text


def test_only_scenes_of_known_factors_are_asked_for_more_than_the_class():
    for preset in datasets.PRESETS:
        for option in ("", ",runlocal"):
            evals = imae.get_config(preset + option).evals
            assert ("attributes" in evals) == (preset == "shapes")
            assert "attributes" not in mae.get_config(preset + option).evals


@pytest.mark.slow
def test_a_run_on_shapes(tmp_path, monkeypatch):
    sizes = dict(train=128, validation=64, test=64)
    monkeypatch.setattr(shapes, "SPLITS", sizes)
    for module, name in ((mae, "teacher"), (imae, "imae")):
        config = module.get_config("shapes,runlocal")
        config.data.dir = str(tmp_path / "data")
        config.train.total_steps = 1
        if name == "imae":
            config.teacher.init = str(tmp_path / "teacher")
        train(config, tmp_path / name)
    config = read_config(tmp_path / "imae")
    wanted = ("attributes", "segmentation")
    config.evals = {name: config.evals[name] for name in wanted}
    del config.explorer
    found = evaluation.evaluate(config, tmp_path / "imae")
    for row in ("", *(f"baselines/{x}/" for x in ("teacher", "random", "raw_pixels"))):
        for metric in ("mean_iou", "pixel_accuracy"):
            assert 0 < found[f"segmentation/{row}{metric}"] < 1
    assert found["segmentation/count"] == 64
    settings = atomic_files.read_json(tmp_path / "imae" / "eval_settings.json")
    factors = {"label", "colour", "background", "size", "x", "y", "rotation"}
    counts = {name: found[f"attributes/{name}/count"] for name in factors}
    assert counts["x"] == 64 > counts["label"] > counts["background"] > 32
    labels = load("shapes", str(tmp_path / "data")).splits["test"].labels
    turns = np.take(shapes.SYMMETRY["rotation"], labels)
    assert counts["rotation"] == (turns > 0).sum() < 64
    for name in factors:
        metric = "accuracy" if f"attributes/{name}/chance" in found else "r2"
        assert (metric == "accuracy") == (name in ("label", "colour", "background"))
        key = f"attributes/alpha_0.30/baselines/random/dominant/{name}/{metric}"
        assert found[key] == found[f"attributes/baselines/random/dominant/{name}/{metric}"]
        assert settings[key]["count"] == counts[name] and settings[key]["alpha"] == 0.3
