"""`imae_jax.load`, as a notebook uses it."""

import jax
import numpy as np
import pytest
from PIL import Image

import imae_jax
from imae_jax.data import augment
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.interop import export_weights
from imae_jax.interop.imae_release import export_release
from imae_jax.models import masking, patches
from imae_jax.models.forward import forward
from imae_jax.models.layers import Compute
from imae_jax.training import trained_run
from imae_jax.training.loop import train

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def pretrained(student):
    return imae_jax.load(student)


def run_of(workdir):
    return trained_run.load_run(workdir, "workdir", sharding.make_mesh())


def test_a_workdir_and_its_file_are_the_same(pretrained, student, tmp_path):
    export_weights.export(student, "safetensors", tmp_path / "w.safetensors")
    from_file = imae_jax.load(tmp_path / "w.safetensors")
    jax.tree.map(np.testing.assert_array_equal, from_file.params, pretrained.params)
    np.testing.assert_array_equal(from_file.encode(IMAGES), pretrained.encode(IMAGES))
    assert from_file.config.model == pretrained.config.model


def test_encode_sees_every_patch_in_raster_order(pretrained, student):
    run = run_of(student)
    x = augment.normalize(
        IMAGES, *(np.array(run.meta[k], np.float32) for k in ("mean", "std"))
    )
    network = run.model.clone(compute=Compute())
    wanted = network.apply({"params": run.params}, x, method="encode")
    found = pretrained.encode(IMAGES)
    assert found.shape == (3, 17, 32) and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(pretrained.encode(IMAGES), found)  # nothing is drawn
    np.testing.assert_allclose(pretrained.encode(IMAGES[1]), found[1], atol=1e-5)
    np.testing.assert_allclose(pretrained.encode(IMAGES / 255), found, atol=1e-5)
    # A mask that removes nothing, in another order: the same tokens in that order.
    order = RANDOM.permuted(np.tile(np.arange(16), (3, 1)), axis=1)
    out = pretrained.forward(x, order, np.argsort(order, axis=1))
    shown = np.take_along_axis(found[:, 1:], order[:, :, None], axis=1)
    np.testing.assert_allclose(out["tokens"][:, 1:], shown, atol=1e-5)


@pytest.mark.slow
def test_forward_gives_the_models_own_outputs(pretrained, student):
    run = run_of(student)
    mixture = RANDOM.normal(size=(3, 8, 8, 1)).astype(np.float32)
    mask = masking.random_mask(jax.random.key(0), 3, 16, 0.25)
    found = pretrained.forward(mixture, mask.ids_keep, mask.ids_restore)
    network = run.model.clone(compute=Compute())
    wanted = forward(network, run.params, mixture, mask)
    shapes = dict(tokens=(3, 13, 32), latents=(3, 2, 13, 16), pred=(3, 2, 16, 4))
    assert {name: x.shape for name, x in found.items()} == shapes
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_separate_mixes_and_rebuilds_from_removed_patches(pretrained):
    a, b = IMAGES[0], IMAGES[1]
    found = pretrained.separate(a, b, alpha=0.3, seed=1)
    np.testing.assert_allclose(found.mixture, (0.3 * a + 0.7 * b) / 255.0, atol=1e-5)
    assert found.mask.shape == (16,) and found.mask.sum() == 4  # mask ratio 0.25
    for picture in (found.subordinate, found.dominant):
        assert picture.shape == (8, 8, 1) and picture.dtype == np.float32
        assert 0 <= picture.min() and picture.max() <= 1
    again = pretrained.separate(a, b, alpha=0.3, seed=1)
    jax.tree.map(np.testing.assert_array_equal, again, found)
    other = pretrained.separate(a, b, alpha=0.3, seed=2, mask_ratio=0.5)
    assert other.mask.sum() == 8
    both = pretrained.separate(IMAGES[:2], IMAGES[1:] / 255)
    assert both.dominant.shape == (2, 8, 8, 1)
    # Removed patches are those that the model predicts in the first pass.
    x = augment.normalize(255 * found.mixture, pretrained.mean, pretrained.std)
    mask = masking.random_mask(jax.random.key(1), 1, 16, 0.25)
    np.testing.assert_array_equal(mask.mask[0], found.mask)
    pred = pretrained.forward(x[None], mask.ids_keep, mask.ids_restore)["pred"][0, 1]
    rebuilt = patches.unpatchify(pred, 2, (8, 8))
    rebuilt = augment.unnormalize(rebuilt, pretrained.mean, pretrained.std) / 255
    is_removed = patches.unpatchify(np.repeat(found.mask[:, None], 4, 1), 2, (8, 8))
    wanted = np.clip(rebuilt, 0, 1)[is_removed]
    np.testing.assert_allclose(found.dominant[is_removed], wanted, atol=1e-4)


def test_images_are_given_as_files(pretrained, tmp_path):
    """Upright, the central square, reduced to 8x8 grey pixels."""
    picture = np.zeros((32, 16, 3), np.uint8)
    picture[8:16], picture[16:24] = 50, 200  # the central square's halves
    exif = Image.Exif()
    exif[0x0112] = 8  # stored lying on its side
    path = tmp_path / "a.png"
    Image.fromarray(picture).rotate(-90, expand=True).save(path, exif=exif)
    opened = pretrained.open_image(path)
    assert opened.shape == (8, 8, 1) and opened.dtype == np.uint8
    np.testing.assert_allclose(opened[:2], 50, atol=5)
    np.testing.assert_allclose(opened[-2:], 200, atol=5)
    by_file = pretrained.separate(path, str(path), alpha=0.4)
    by_array = pretrained.separate(opened, opened, alpha=0.4)
    jax.tree.map(np.testing.assert_array_equal, by_file, by_array)
    np.testing.assert_array_equal(pretrained.encode(path), pretrained.encode(opened))


@pytest.mark.slow
def test_other_kinds_of_models(teacher, imae_config, transfer_config, tmp_path):
    mae = imae_jax.load(teacher)
    mask = masking.random_mask(jax.random.key(0), 3, 16, 0.25)
    x = RANDOM.normal(size=(3, 8, 8, 1)).astype(np.float32)
    found = mae.forward(x, mask.ids_keep, mask.ids_restore)
    assert found["latents"].shape == (3, 13, 16) and found["pred"].shape == (3, 16, 4)
    with pytest.raises(UserError, match="this is a MAE; only an i-MAE separates"):
        mae.separate(IMAGES[0], IMAGES[1])
    config = imae_config()
    config.loss.branches, config.loss.norm_pix = "subordinate", True
    train(config, tmp_path / "norm_pix")
    with pytest.raises(UserError, match="trained with loss.norm_pix"):
        imae_jax.load(tmp_path / "norm_pix").separate(IMAGES[0], IMAGES[1])
    config.loss.norm_pix = False
    train(config, tmp_path / "subordinate")
    separated = imae_jax.load(tmp_path / "subordinate").separate(IMAGES[0], IMAGES[1])
    assert separated.dominant is None and separated.subordinate.shape == (8, 8, 1)
    config.loss.branches, config.mix.sources, config.train.batch_size = "both", 3, 24
    train(config, tmp_path / "three")
    three = imae_jax.load(tmp_path / "three")
    assert three.forward(x, mask.ids_keep, mask.ids_restore)["pred"].shape == (3, 3, 16, 4)
    with pytest.raises(UserError, match="this i-MAE separates 3 images"):
        three.separate(IMAGES[0], IMAGES[1])
    run = trained_run.load_run(tmp_path / "three", "workdir", sharding.make_mesh())
    with pytest.raises(UserError, match="mix.sources=3: must be 2 for --format=imae_torch"):
        export_release(run, tmp_path / "three.pth")
    train(transfer_config("finetune"), tmp_path / "finetune")
    finetuned = imae_jax.load(tmp_path / "finetune")
    assert finetuned.encode(IMAGES).shape == (3, 17, 32)
    with pytest.raises(UserError, match="an encoder without a decoder"):
        finetuned.forward(x, mask.ids_keep, mask.ids_restore)


@pytest.mark.parametrize(
    "images,message",
    [
        (IMAGES[:, :, :, 0], r"images is \[3, 8, 8\]; it must be \[B, 8, 8, 1\]"),
        (np.zeros((3, 9, 8, 1), np.uint8), r"\[3, 9, 8, 1\]"),
        (IMAGES.astype(np.float32), "holds values from .* must be finite and in"),
        (np.full((1, 8, 8, 1), np.nan), "must be finite"),
        (IMAGES.astype(np.int64), "images is int64; it must be uint8, or float"),
        ("picture.png", "picture.png cannot be read: No such file"),
        (__file__, "test_pretrained.py is no image of a known kind"),
        ("gs://b/picture.png", "invalid path='gs://b/picture.png'"),
    ],
)
def test_images_that_cannot_be_shown(images, message, pretrained):
    with pytest.raises(UserError, match=message):
        pretrained.encode(images)


def test_numbers_that_are_not_possible(pretrained):
    a, b = IMAGES[0], IMAGES[1]
    for arguments, message in (
        (dict(alpha=0.7), r"invalid alpha=0.7: must be in \(0, 0.5\]"),
        (dict(mask_ratio=1.0), "invalid mask_ratio=1.0"),
        (dict(image_b=IMAGES), "must be of one shape"),
    ):
        with pytest.raises(UserError, match=message):
            pretrained.separate(a, **(dict(image_b=b) | arguments))
    x, ids = np.zeros((3, 8, 8, 1), np.float32), np.zeros((2, 4), int)
    with pytest.raises(
        UserError, match=r"for 3 images they must be \[3, K\] and \[3, 16\]"
    ):
        pretrained.forward(x, ids, ids)
    ids_keep, ids_restore = np.zeros((3, 4), int), np.tile(np.arange(16), (3, 1))
    for inputs, message in (
        ((x, ids_keep + 16, ids_restore), "ids_keep must hold integers from 0 to 15"),
        ((x, ids_keep, ids_restore + 0.0), "ids_restore must hold integers"),
        ((x.astype(np.uint8), ids_keep, ids_restore), "mixture is uint8; it must be float"),
    ):
        with pytest.raises(UserError, match=message):
            pretrained.forward(*inputs)


def test_paths_that_hold_nothing_of_ours(workdir_without, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        imae_jax.load(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no checkpoints"):
        imae_jax.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit_mae"}')
    with pytest.raises(UserError, match="holds no checkpoints: .* import"):
        imae_jax.load(tmp_path)
    with pytest.raises(UserError, match="was not exported from here: .* import"):
        imae_jax.load(workdir_without)


@pytest.fixture
def workdir_without(teacher, tmp_path_factory):
    path = tmp_path_factory.mktemp("foreign") / "vit.safetensors"
    export_weights.export(teacher, "timm", path)
    return path


@pytest.mark.slow
def test_a_step_is_chosen(mae_config, tmp_path):
    config = mae_config()
    config.checkpoint.every_steps, config.checkpoint.keep = 1, 4
    train(config, tmp_path / "run")
    losses = {
        step: run.meta["loss"]
        for step in (1, 2, 3, 4)
        if (
            run := trained_run.load_run(
                tmp_path / "run", "path", sharding.make_mesh(), step
            )
        )
    }
    best = min(losses, key=losses.get)
    wanted, newest = (imae_jax.load(tmp_path / "run", step=x) for x in (best, None))
    found = imae_jax.load(tmp_path / "run", step="best")
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
    fourth = imae_jax.load(tmp_path / "run", step=4)
    jax.tree.map(np.testing.assert_array_equal, newest.params, fourth.params)
    with pytest.raises(UserError, match="step 9 is no checkpoint; there are 4, 3, 2, 1"):
        imae_jax.load(tmp_path / "run", step=9)
