import jax
import numpy as np
import pytest

from imae_jax.data import augment
from imae_jax.data.load import load
from imae_jax.evaluators import reconstruction
from imae_jax.evaluators.full_reconstruction import rebuild
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.models import masking, patches
from imae_jax.report import figures


@pytest.fixture(scope="module")
def dataset(data_dir):
    return load("digits", data_dir)


def held_out(dataset, norm_pix=False):
    return HeldOut(
        dataset=dataset,
        patch_size=2,
        num_patches=16,
        mask_ratio=0.5,
        norm_pix=norm_pix,
    )


def network(predict):
    return Network(predict=predict, embed=None)


def constant(value):
    """A network that predicts the same everywhere, for both branches."""
    return network(
        lambda images, mask: {"pred": np.full((len(images), 2, 16, 4), value, np.float32)}
    )


def test_every_image_is_seen_once_in_each_role_and_padding_is_marked(dataset):
    batches = list(held_out(dataset).batches("test", batch_size=128, seed=0))
    valid = np.concatenate([batch.valid for batch in batches])
    assert len(batches) == 3 and valid.sum() == 300 and not valid[300:].any()
    split = dataset.splits["test"].images
    expected = augment.normalize(split, dataset.mean, dataset.std).reshape(300, -1)
    expected = sorted(map(tuple, np.asarray(expected).tolist()))
    for s in range(2):
        shown = np.concatenate([batch.sources[:, s] for batch in batches])[valid]
        assert sorted(map(tuple, shown.reshape(300, -1).tolist())) == expected


def test_each_split_and_seed_has_masks_of_its_own_and_keeps_them(dataset):
    def masks(split, seed):
        (batch, *_) = held_out(dataset).batches(split, batch_size=128, seed=seed)
        return batch.mask.mask

    np.testing.assert_array_equal(masks("test", 0), masks("test", 0))
    assert (masks("test", 0) != masks("train", 0)).mean() > 0.4
    assert (masks("test", 0) != masks("test", 1)).mean() > 0.4


def test_numbers_do_not_depend_on_the_batch_size(dataset):
    def predict(images, mask):
        cut = np.asarray(patches.patchify(images, 2))
        return {"pred": np.stack([cut, 2 * cut], axis=1)}

    results = [
        dict(
            reconstruction.evaluate(
                {"student": network(predict)},
                held_out(dataset),
                split="test",
                batch_size=n,
                seed=0,
                alpha=0.3,
            )
        )
        for n in (16, 128, 512)
    ]
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-6)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_error_against_numpy_on_removed_patches_only(dataset, norm_pix):
    made = held_out(dataset, norm_pix)
    found = dict(
        reconstruction.evaluate(
            {"student": constant(0.25)},
            made,
            split="test",
            batch_size=300,
            seed=0,
            alpha=0.3,
        )
    )
    batch = next(made.batches("test", batch_size=300, seed=0))
    train = augment.normalize(dataset.splits["train"].images, dataset.mean, dataset.std)
    removed = batch.mask.mask

    def cut(images):
        x = np.asarray(patches.patchify(images, 2), np.float64)
        if norm_pix:
            variance = x.var(-1, ddof=1, keepdims=True)
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
        return x

    mean = cut(train).mean(axis=0)
    for s, branch in enumerate(("subordinate", "dominant")):
        target = cut(batch.sources[:, s])
        mse = np.square(0.25 - target)[removed].mean()
        baseline = np.square(mean - target)[removed].mean()
        assert found[f"{branch}/mse"] == pytest.approx(mse, rel=1e-5)
        assert found[f"{branch}/mse_train_mean"] == pytest.approx(baseline, rel=1e-5)
        assert found[f"{branch}/ratio"] == pytest.approx(mse / baseline, rel=1e-5)


def test_perfect_prediction_has_no_error_for_a_mae(dataset):
    def predict(images, mask):
        return {"pred": np.asarray(patches.patchify(images, 2))}

    made = held_out(dataset)
    found = dict(
        reconstruction.evaluate(
            {"student": network(predict)}, made, split="test", batch_size=64, seed=0
        )
    )
    assert found["mse"] == 0 and found["mse_train_mean"] > 0.3


def test_pictures_show_what_the_encoder_saw_and_raw_predictions(dataset, tmp_path):
    made = held_out(dataset)
    columns = figures.picture_columns(
        constant(0.0), made, split="test", batch_size=64, seed=0, alpha=0.3
    )
    assert list(columns) == [
        "mixture",
        "masked",
        "subordinate\nrebuilt",
        "subordinate\ntarget",
        "dominant\nrebuilt",
        "dominant\ntarget",
        "subordinate\nraw",
        "dominant\nraw",
    ]
    batch = next(made.batches("test", batch_size=64, seed=0))
    removed = batch.mask.mask[: figures.NUM_ROWS]
    masked = np.asarray(patches.patchify(columns["masked"], 2))
    mixture = np.asarray(patches.patchify(columns["mixture"], 2))
    assert np.all(masked[removed] == figures.REMOVED_GREY)
    np.testing.assert_array_equal(masked[~removed], mixture[~removed])
    # A constant prediction stays one: no pixel of a target shines through.
    np.testing.assert_allclose(
        columns["dominant\nrebuilt"].max(), dataset.mean[0], rtol=1e-5
    )
    assert np.ptp(columns["dominant\nrebuilt"]) == 0
    expected = 0.3 * columns["subordinate\ntarget"] + 0.7 * columns["dominant\ntarget"]
    np.testing.assert_allclose(columns["mixture"], expected, atol=1e-3)
    path = figures.reconstructions(
        constant(0.0),
        made,
        tmp_path / "figures",
        split="test",
        batch_size=64,
        seed=0,
        alpha=0.3,
    )
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("branches", [0, 2])
def test_rebuilding_takes_each_patch_from_passes_in_which_it_was_removed(branches):
    mask = masking.random_mask(jax.random.key(0), 3, 16, 0.375)

    def predict(images, mask):
        """Right (7) where removed, wrong where seen."""
        pred = np.where(np.asarray(mask.mask)[..., None], 7.0, -100.0)
        pred = np.broadcast_to(pred, (3, 16, 4))
        return {"pred": np.stack([pred] * branches, axis=1) if branches else pred}

    images = np.zeros((3, 8, 8, 1))
    rebuilt, raw = rebuild(network(predict), images, mask)
    np.testing.assert_array_equal(raw, predict(images, mask)["pred"])
    assert rebuilt.shape == ((3, branches, 16, 4) if branches else (3, 16, 4))
    np.testing.assert_allclose(rebuilt, 7)


def test_of_several_predictions_of_a_patch_the_first_counts():
    mask = masking.random_mask(jax.random.key(0), 3, 16, 0.75)  # two passes overlap
    passes = iter(range(1, 9))

    def predict(images, mask):
        return {"pred": np.full((3, 16, 4), next(passes), np.float32)}

    rebuilt, raw = rebuild(network(predict), np.zeros((3, 8, 8, 1)), mask)
    expected = np.where(mask.mask[..., None], 1, 2)
    np.testing.assert_array_equal(rebuilt, np.broadcast_to(expected, rebuilt.shape))
    assert np.all(raw == 1)
