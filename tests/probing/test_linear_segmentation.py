"""Segmentation by a linear classifier of patches: scores, and what a fit finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, jaccard_score

from imae_jax import linear_segmentation
from imae_jax.errors import UserError
from imae_jax.probing.linear_segmentation import Segmented, fit_and_score
from imae_jax.probing.segmentation_scores import (
    IGNORED,
    class_ious,
    confusion,
    controls,
    interpolation,
    overall,
    patch_classes,
    upsampled_confusion,
)

NO = IGNORED


def test_scores_by_hand():
    labels = np.array([[0, 0, 0, 1], [1, 1, 2, NO]], np.uint8)
    called = np.array([[0, 0, 1, 1], [1, 0, 3, 2]])
    counts = confusion(labels, called)
    assert counts.sum() == 7 and counts[0, 0] == counts[1, 1] == 2
    # 0: 2 of 3 + 1; 1: 2 of 3 + 1; 2: never called; 3: called, and there is none.
    assert class_ious(counts) == pytest.approx({0: 0.5, 1: 0.5, 2: 0.0, 3: 0.0})
    expected = {"mean_iou": 0.25, "pixel_accuracy": 4 / 7}
    assert overall(counts) == pytest.approx(expected)


LABELS = st.sampled_from([0, 1, 2, 7, 254, NO])
CALLED = st.sampled_from([0, 1, 2, 7, 254])


@given(hnp.arrays(np.uint8, 12, elements=LABELS), hnp.arrays(int, 12, elements=CALLED))
def test_scores_are_scikit_learns(labels, called):
    counts, counted = confusion(labels, called), labels != NO
    if not counted.any():
        assert counts.sum() == 0
        return
    pair = labels[counted], called[counted]
    found = overall(counts)
    assert found["mean_iou"] == pytest.approx(jaccard_score(*pair, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(*pair))
    classes = np.union1d(*pair)
    expected = jaccard_score(*pair, average=None, labels=classes)
    assert class_ious(counts) == pytest.approx(dict(zip(classes, expected, strict=True)))


def test_a_patch_is_of_its_majority_class_in_raster_order():
    label_map = np.array(
        [
            [3, 3, 0, 1, NO, NO],
            [3, 0, 1, 0, NO, NO],
            [2, NO, 5, 5, 4, 4],
            [NO, NO, 4, 5, 4, 254],
        ],
        np.uint8,
    )
    found = patch_classes(label_map[None], (2, 3))
    # Of two classes that are equally frequent the first; one pixel outvotes ignored ones.
    assert found.tolist() == [[3, 0, NO, 2, 5, 4]]


@pytest.mark.parametrize(
    "size,length", [(1, 4), (2, 8), (3, 9), (4, 32), (14, 224), (5, 5)]
)
def test_upsampling_is_pytorchs(size, length, parity):
    torch = parity("torch")
    scores = np.random.default_rng(0).normal(size=(1, 2, size, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(scores), (length, 9), mode="bilinear", align_corners=False
    )
    rows, columns = interpolation(size, length), interpolation(3, 9)
    found = np.einsum("Hh,Ww,nchw->ncHW", rows, columns, scores)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_many_images_are_counted_as_one_by_one(monkeypatch):
    random = np.random.default_rng(0)
    scores = random.normal(size=(7, 2, 3, 4))
    maps = random.choice([0, 3, 5, 9, NO], (7, 8, 9)).astype(np.uint8)
    classes = np.array([0, 3, 5, 9])
    whole = upsampled_confusion(scores, classes, maps)
    assert whole.sum() == (maps != NO).sum()
    monkeypatch.setattr("imae_jax.probing.segmentation_scores.MOST_SCORES", 1)
    np.testing.assert_array_equal(upsampled_confusion(scores, classes, maps), whole)


def bands(count, seed, classes=(0, 2, 7), rows=3, columns=4, side=4):
    """Label maps of upright bands, a column of patches each; and patches' one-hot classes.

    Bilinear upsampling keeps straight borders between patches, but no corners.
    """
    random = np.random.default_rng(seed)
    values = random.integers(0, len(classes), (count, 1, columns)).repeat(rows, axis=1)
    maps = np.array(classes)[values].repeat(side, axis=1).repeat(side, axis=2)
    tokens = np.eye(len(classes))[values].reshape(count, rows * columns, -1)
    return tokens, maps


GRID = dict(grid=(3, 4))


def four(seed=0, **options):
    train, test = bands(40, seed, **options), bands(20, seed + 1, **options)
    return [*train, *test]


def test_tokens_that_hold_the_class_segment_without_error():
    tokens, maps, test_tokens, test_maps = four()
    turn = np.random.default_rng(0).normal(size=(3, 5))
    found = linear_segmentation(
        tokens @ turn, maps, test_tokens @ turn - 0, test_maps, **GRID
    )
    assert found["mean_iou"] == found["pixel_accuracy"] == 1.0
    assert found["patch_classes/mean_iou"] == 1.0
    assert {key for key in found if key.startswith("iou/")} == {"iou/0", "iou/2", "iou/7"}
    assert found["majority_class/mean_iou"] < 0.2


def test_tokens_of_another_images_patches_do_not():
    tokens, maps, test_tokens, test_maps = four()
    found = linear_segmentation(tokens, maps, test_tokens[::-1], test_maps, **GRID)
    assert found["mean_iou"] < 0.4 and found["patch_classes/mean_iou"] == 1.0


def test_noise_is_near_the_majority_class():
    random = np.random.default_rng(0)
    maps = (random.random((300, 8, 8)) < 0.1).astype(int)
    maps[:, :4, :4] *= random.integers(0, 9, (300, 1, 1))  # rare, and seldom a majority
    maps[:40, 4:, 4:] = 1
    tokens = random.normal(size=(300, 4, 3))
    found = linear_segmentation(tokens[:200], maps[:200], tokens[200:], maps[200:])
    for metric in ("mean_iou", "pixel_accuracy"):
        assert found[metric] == pytest.approx(found[f"majority_class/{metric}"], abs=0.02)


def test_scores_of_a_fit_are_scikit_learns_by_pixel():
    """The fit, too, at the strength that was chosen: pixels are called the same."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(1)
    tokens, maps, test_tokens, test_maps = four()
    tokens, test_tokens = (x + random.normal(size=x.shape) for x in (tokens, test_tokens))
    test_maps[:, 0, :3] = NO
    found = linear_segmentation(tokens, maps, test_tokens, test_maps, **GRID)
    fitted, of_patches = tokens[:32].reshape(-1, 3), maps[:32, ::4, ::4].reshape(-1)
    covariance = np.linalg.inv(np.linalg.cholesky(np.cov(fitted, rowvar=False))).T
    white = (fitted - fitted.mean(0)) @ covariance
    probe = LogisticRegression(C=1 / (found["l2"] * len(white)), tol=1e-8, max_iter=1000)
    probe.fit(white, of_patches)
    white = (test_tokens.reshape(-1, 3) - fitted.mean(0)) @ covariance
    scores = probe.decision_function(white).reshape(-1, 3, 4, 3)
    rows, columns = interpolation(3, 12), interpolation(4, 16)
    scores = np.einsum("Hh,Ww,nhwc->nHWc", rows, columns, scores)
    called, counted = probe.classes_[scores.argmax(-1)], test_maps != NO
    expected = jaccard_score(test_maps[counted], called[counted], average="macro")
    assert found["mean_iou"] == pytest.approx(expected, abs=5e-3)
    assert 0.3 < expected < 0.9


def test_ignored_pixels_change_nothing_wherever_they_are():
    tokens, maps, test_tokens, test_maps = four()
    clean = linear_segmentation(tokens, maps, test_tokens, test_maps, **GRID)
    maps[:, :, 4:12] = test_maps[:, :4] = NO  # whole patches, most of which look as those
    tokens.reshape(-1, 3, 4, 3)[:, :, 1:3] = [0, 0, 1]  # of class 7 do
    found = linear_segmentation(tokens, maps, test_tokens, test_maps, **GRID)
    assert found["mean_iou"] == clean["mean_iou"] == 1.0
    assert found["patch_classes/mean_iou"] == 1.0


def one_patch(called, labels):
    """Images of one patch: tokens that say what fit 1e-4 calls it, and label maps."""
    maps = np.array(labels, np.uint8)[:, None, None].repeat(2, axis=1).repeat(2, axis=2)
    return Segmented(np.eye(3)[called][:, None], maps)


def test_the_strength_is_chosen_by_mean_iou_on_validation(monkeypatch):
    fits = {
        0.1: (np.zeros((3, 3)), np.array([1.0, 0.0, 0.0])),  # calls everything 0
        1e-4: (np.eye(3), np.zeros(3)),
        1e-3: (np.eye(3)[::-1], np.zeros(3)),  # calls 0 what is 2, and 2 what is 0
    }
    module = "imae_jax.probing.linear_segmentation"
    monkeypatch.setattr(f"{module}.fit_strengths", lambda train, num_classes: fits)
    monkeypatch.setattr(f"{module}.whitening", lambda features: lambda x: x)
    right, wrong = one_patch([0, 1, 2], [0, 1, 2]), one_patch([0, 1, 2], [2, 1, 0])
    for validation, expected in ((right, 1e-4), (wrong, 1e-3)):
        for test in (right, wrong):
            counts, l2 = fit_and_score(right, validation, test, (1, 1), "x")
            assert l2 == expected
            assert overall(counts)["mean_iou"] == (1 if validation is test else 1 / 3)
    # Less accurate than a constant (0.7 to 0.8), but of higher mean IoU.
    rare = one_patch([0] * 5 + [1] * 4 + [2], [0] * 8 + [1, 2])
    counts, l2 = fit_and_score(right, rare, rare, (1, 1), "x")
    assert l2 == 1e-4 and overall(counts)["pixel_accuracy"] == pytest.approx(0.7)


def test_a_class_that_no_training_patch_has_is_never_called():
    tokens, maps, test_tokens, test_maps = four()
    test_maps[test_maps == 7] = 9
    found = linear_segmentation(tokens, maps, test_tokens, test_maps, **GRID)
    assert found["iou/9"] == found["iou/7"] == 0 and found["iou/0"] == 1
    assert found["mean_iou"] == pytest.approx(0.5)


def test_containers_and_types_do_not_matter(parity):
    torch = parity("torch")
    given = four()
    clean = linear_segmentation(*given, **GRID)
    tensors = [torch.from_numpy(x.copy()) for x in given]
    assert linear_segmentation(*tensors, **GRID) == pytest.approx(clean)
    others = [x.astype(np.float32) for x in given]
    assert linear_segmentation(*others, **GRID) == pytest.approx(clean)


def test_controls_call_all_pixels_the_most_frequent_class_of_train():
    train = np.array([[[5, 5], [5, NO]], [[NO, NO], [NO, 1]]], np.uint8)
    test = np.array([[[5, 1], [1, 1]]], np.uint8)
    assert controls(train, test, (1, 1)) == {
        "majority_class/pixel_accuracy": 0.25,
        "majority_class/mean_iou": 0.125,
        "patch_classes/pixel_accuracy": 0.75,
        "patch_classes/mean_iou": 0.375,
    }


def put(array, place, value):
    changed = array.astype(float)
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    "place,change,message",
    [
        (0, lambda x: x[0], r"train_tokens is float64 \[12, 3\]; it must be \[N, L, D\]"),
        (
            0,
            lambda x: put(x, (3, 1, 2), np.nan),
            "train_tokens is not finite .* at .3, 1, 2",
        ),
        (0, lambda x: x[:-1], r"train_label_maps .* must have 39 rows, as the tokens"),
        (0, lambda x: x[:, :9], "test_tokens .* must be .N, 9, 3., as train_tokens"),
        (2, lambda x: x[..., :2], "test_tokens .* must be .N, 12, 3., as train_tokens"),
        (1, lambda x: x[..., None], r"train_label_maps .* be \[N, H, W\]: .* not one-hot"),
        (1, lambda x: put(x, (0, 0, 0), 256), "train_label_maps holds 256.0; .* 0 to 254"),
        (1, lambda x: put(x, (0, 0, 0), -1), "train_label_maps holds -1.0; .* 0 to 254"),
        (3, lambda x: put(x, (0, 0, 0), 0.5), "test_label_maps holds 0.5; a class must be"),
        (3, lambda x: x[:, :11], "test_label_maps .* 3x4 patches do not divide"),
        (3, lambda x: x * 0 + NO, "no pixel of the test label maps counts"),
        (1, lambda x: x * 0 + NO, "no pixel of the train label maps counts"),
        (1, lambda x: put(x, slice(32, None), NO), "no pixel of the validation label maps"),
        (1, lambda x: x * 0 + 3, "all training patches are of class 3, by the majority"),
        (1, lambda x: x.astype(str), "train_label_maps .* must hold real numbers"),
    ],
)
def test_arrays_that_cannot_be_right_are_refused(place, change, message):
    given = four()
    given[place] = change(given[place])
    with pytest.raises(UserError, match=message) as error:
        linear_segmentation(*given, **GRID)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("grid", [(4, 4), (3, 4, 1), 12, (3.0, 4.0), (-3, -4), "34"])
def test_a_grid_that_cannot_be_right_is_refused(grid):
    with pytest.raises(UserError, match="^invalid grid.*"):
        linear_segmentation(*four(), grid=grid)
    with pytest.raises(UserError, match=r"12 patches are no square: .* class token"):
        linear_segmentation(*four())


def test_two_images_are_too_few():
    tokens, maps, *test = four()
    with pytest.raises(UserError, match="at least 3 images"):
        linear_segmentation(tokens[:2], maps[:2], *test, **GRID)
