import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from imae_jax import evaluation
from imae_jax.data.load import Dataset, Split, load
from imae_jax.evaluators import reconstruction
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.models import patches
from imae_jax.report import explorer, panels, sprites
from imae_jax.training.loop import train

OPTIONS = dict(
    split="test",
    pairs=3,
    alphas=(0.1, 0.3),
    mask_ratios=(0.25, 0.5, 0.75),
    batch_size=16,
    seed=0,
)


@pytest.fixture(scope="module")
def held_out(data_dir):
    return HeldOut(
        dataset=load("digits", data_dir),
        patch_size=2,
        num_patches=16,
        mask_ratio=0.5,
        norm_pix=False,
    )


def constant(value, branches=2):
    def predict(images, mask):
        assert images.shape == (16, 8, 8, 1)  # one shape: whole batches
        return {"pred": np.full((len(images), branches, 16, 4), value, np.float32)}

    return Network(predict=predict, embed=None)


def tiles_of(folder):
    """The sprite's tiles by pair, [N, T, h, w], and the layout."""
    layout = json.loads((folder / "explorer.json").read_text())
    sprite = np.asarray(Image.open(folder / layout["image"]), float)
    height, width = layout["tile"]
    rows = sprite.shape[0] // height
    tiles = sprite.reshape(rows, height, layout["columns"], width).swapaxes(1, 2)
    pairs = len(layout["labels"])
    states = len(layout["alphas"]) * len(layout["mask_ratios"]) * len(layout["branches"])
    per_pair = 2 + len(layout["alphas"]) + states
    tiles = tiles.reshape(-1, height, width)[: pairs * per_pair]
    return tiles.reshape(pairs, per_pair, height, width), layout


def batch_at(held_out, ratio):
    made = dataclasses.replace(held_out, mask_ratio=ratio)
    return next(made.batches("test", batch_size=16, seed=0))


def test_tiles_are_the_pairs_pixels(held_out, tmp_path):
    path = explorer.write(constant(0.0), held_out, tmp_path / "figures", **OPTIONS)
    assert path == tmp_path / "figures" / "explorer.json"
    tiles, layout = tiles_of(path.parent)
    assert layout["image"] == "explorer.png" and layout["patches"] == [4, 4]
    batch = batch_at(held_out, 0.5)
    targets = held_out.pixels(batch.sources)[[0, 2, 4], ..., 0]
    np.testing.assert_allclose(tiles[:, :2], targets, atol=0.5)
    for a, alpha in enumerate(OPTIONS["alphas"]):
        mixture = alpha * targets[:, 0] + (1 - alpha) * targets[:, 1]
        np.testing.assert_allclose(tiles[:, 2 + a], mixture, atol=0.51)
    # No image twice: pairs are shown once, not in both roles.
    assert len(np.unique(tiles[:, :2].reshape(6, -1), axis=0)) == 6
    names = held_out.dataset.class_names
    expected = [[names[s] for s in pair] for pair in batch.labels[[0, 2, 4]]]
    assert layout["labels"] == expected
    for r, ratio in enumerate(OPTIONS["mask_ratios"]):
        removed = batch_at(held_out, ratio).mask.mask[[0, 2, 4]]
        for pair in range(3):
            assert layout["masks"][pair][r] == "".join(str(int(x)) for x in removed[pair])


def test_tiles_of_three_images(held_out, tmp_path):
    three = dataclasses.replace(held_out, num_sources=3)
    explorer.write(constant(0.0, branches=3), three, tmp_path, **OPTIONS)
    layout = json.loads((tmp_path / "explorer.json").read_text())
    assert (
        layout["sources"] == layout["branches"] == ["subordinate", "middle_1", "dominant"]
    )
    assert [len(labels) for labels in layout["labels"]] == [3] * 3
    np.testing.assert_allclose(layout["weights"][1], [0.2, 1 / 3, 0.7 * 2 / 3])
    batch = batch_at(three, 0.5)
    names = held_out.dataset.class_names
    assert layout["labels"][1] == [names[s] for s in batch.labels[3]]
    assert np.shape(layout["mse"]) == (3, 3, 2, 3)


def test_what_was_rebuilt_stands_in_the_order_ratio_alpha_branch(held_out, tmp_path):
    """Each state has a grey of its own, told by what the network is shown."""
    sources_seen = batch_at(held_out, 0.5).sources

    def predict(images, mask):
        dominant, subordinate = sources_seen[0, 1], sources_seen[0, 0]
        direction = subordinate - dominant
        alpha = np.sum((images[0] - dominant) * direction) / np.sum(direction**2)
        ratio = np.asarray(mask.mask)[0].mean()
        greys = [10 * s + 100 * alpha + 200 * ratio for s in range(2)]
        pred = (np.array(greys, np.float32) - held_out.dataset.mean) / held_out.dataset.std
        return {"pred": np.broadcast_to(pred[:, None, None], (16, 2, 16, 4))}

    network = Network(predict=predict, embed=None)
    explorer.write(network, held_out, tmp_path, **OPTIONS)
    tiles, _ = tiles_of(tmp_path)
    expected = [
        10 * s + 100 * alpha + 200 * ratio
        for ratio in OPTIONS["mask_ratios"]
        for alpha in OPTIONS["alphas"]
        for s in range(2)
    ]
    for pair in tiles:
        assert np.ptp(pair[4:], axis=(1, 2)).max() == 0
        np.testing.assert_allclose(pair[4:, 0, 0], expected, atol=0.51)


@pytest.mark.parametrize("side", [8, 48, 224])
def test_no_pixel_of_a_target_leaks(held_out, tmp_path, side):
    """A constant prediction stays one, however wild the targets that lie beside it."""
    noise = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), dtype=np.uint8)
    made = replace_images(held_out, noise, side)
    network = Network(
        lambda x, mask: {"pred": np.zeros((16, 2, 16, side * side * 3 // 16))}, None
    )
    explorer.write(network, made, tmp_path, **OPTIONS)
    layout = json.loads((tmp_path / "explorer.json").read_text())
    sprite = np.asarray(Image.open(tmp_path / layout["image"]), float)
    height, width = layout["tile"]
    per_pair = 2 + 2 + 2 * 3 * 2
    for n in range(3 * per_pair):
        y, x = np.array(divmod(n, layout["columns"])) * (height, width)
        tile = sprite[y : y + height, x : x + width]
        spread = np.ptp(tile, axis=(0, 1)).max()
        assert spread == 0 if n % per_pair >= 4 else spread > 20


def replace_images(held_out, images, side):
    """The same, with random images of another size in every split."""
    split = Split(images, np.zeros(len(images), np.int64))
    dataset = Dataset(
        splits={"train": split, "test": split},
        mean=np.full(3, 127.5, np.float32),
        std=np.full(3, 70.0, np.float32),
        class_names=("noise",),
    )
    return dataclasses.replace(held_out, dataset=dataset, patch_size=side // 4)


def test_errors_are_those_of_the_reconstruction_evaluator(held_out, tmp_path):
    """Of single passes, on every mixture of a split that holds each pair once."""
    test = held_out.dataset.splits["test"]
    # Both members of every pair alike: then mixtures 2j and 2j + 1 differ in masks only.
    small = Split(test.images[:16], test.labels[:16])
    dataset = dataclasses.replace(
        held_out.dataset, splits={"train": held_out.dataset.splits["train"], "test": small}
    )
    made = dataclasses.replace(held_out, dataset=dataset)

    def predict(images, mask):
        cut = np.asarray(patches.patchify(images, 2))
        # Other than zero only where seen or removed differently in other passes.
        seen = np.asarray(mask.ids_restore)[..., None] / 16
        return {"pred": np.stack([cut * seen, cut + seen], axis=1).astype(np.float32)}

    network = Network(predict=predict, embed=None)
    options = OPTIONS | dict(pairs=8, batch_size=16)
    explorer.write(network, made, tmp_path, **options)
    layout = json.loads((tmp_path / "explorer.json").read_text())
    errors, means = np.array(layout["mse"]), np.array(layout["mse_train_mean"])
    assert errors.shape == (8, 3, 2, 2) and means.shape == (8, 3, 2)

    class FirstRoles(HeldOut):
        """The mixtures that the panel shows, and no others."""

        def batches(self, *args, **kwargs):
            for batch in super().batches(*args, **kwargs):
                valid = batch.valid & (np.arange(16) % 2 == 0)
                yield dataclasses.replace(batch, valid=valid)

    for r, ratio in enumerate(OPTIONS["mask_ratios"]):
        fields = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
        shown = FirstRoles(**(fields | {"mask_ratio": ratio}))
        for a, alpha in enumerate(OPTIONS["alphas"]):
            found = dict(
                reconstruction.evaluate(
                    {"student": network},
                    shown,
                    split="test",
                    batch_size=16,
                    seed=0,
                    alpha=alpha,
                )
            )
            for s, branch in enumerate(("subordinate", "dominant")):
                mse = errors[:, r, a, s].mean()
                mean = means[:, r, s].mean()
                assert mse == pytest.approx(found[f"{branch}/mse"], abs=1e-5)
                assert mean == pytest.approx(found[f"{branch}/mse_train_mean"], abs=1e-5)


def test_a_single_branch(held_out, tmp_path):
    explorer.write(constant(0.0, branches=1), held_out, tmp_path, **OPTIONS)
    tiles, layout = tiles_of(tmp_path)
    assert layout["branches"] == ["subordinate"] and tiles.shape[1] == 2 + 2 + 6
    assert np.shape(layout["mse"]) == (3, 3, 2, 1)
    assert np.ptp(tiles[:, 4:], axis=(2, 3)).max() == 0


def test_norm_pix_has_no_honest_pixels(held_out, tmp_path):
    made = dataclasses.replace(held_out, norm_pix=True)
    assert explorer.write(constant(0.0), made, tmp_path / "x", **OPTIONS) is None
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "size,expected",
    [
        ((8, 8), (8, 8)),
        ((28, 32), (28, 32)),
        ((36, 36), (32, 32)),
        ((64, 64), (64, 64)),
        ((224, 224), (96, 96)),
        ((224, 112), (96, 48)),
        ((1000, 10), (96, 8)),
    ],
)
def test_tile_sizes(size, expected):
    assert sprites.tile_size(*size) == expected


@pytest.mark.parametrize("side,kind", [(32, "png"), (224, "jpg")])
def test_noise_stays_small(side, kind, tmp_path, monkeypatch):
    """The least compressible sprite of 8 pairs x 8 alphas x 3 ratios, twice on a page."""
    count = 8 * (2 + 8 + 8 * 3 * 2)
    some = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), dtype=np.uint8)
    noise = np.concatenate([np.roll(some, n, axis=1) for n in range(-(-count // 16))])
    data, found, places = sprites.draw_sprite(noise[:count])
    assert found == kind and len(data) <= sprites.MAX_SPRITE_BYTES
    image = Image.open(io.BytesIO(data))
    rows = -(-count // places["columns"])
    assert image.size == (places["columns"] * places["tile"][1], rows * places["tile"][0])

    panel = {"image": "x" * (len(data) * 4 // 3), "layout": {}}
    monkeypatch.setattr(panels, "read", lambda folder: panel)
    read = panels.read_runs({name: tmp_path for name in "abcdef"})
    shown = [found for found in read.values() if found]
    assert list(read) == list("abcdef") and 2 <= len(shown) < 6
    assert sum(len(found["image"]) for found in shown) < 6e6


def test_the_smallest_of_sprites_that_are_all_too_large_is_taken(monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (9, 160, 160, 3), dtype=np.uint8)
    sizes = []
    for most in (10**9, 1):
        monkeypatch.setattr(sprites, "MAX_SPRITE_BYTES", most)
        data, kind, _ = sprites.draw_sprite(pictures)
        sizes.append(len(data))
        assert kind == "jpg"
    assert sizes[1] < sizes[0]


def check_strip(panel, sprite):
    """The pictures at the head of the page are the tiles of the first view."""
    layout, sheet = panel["layout"], np.asarray(Image.open(sprite).convert("RGB"))
    pair, alpha, ratio = (layout["start"][name] for name in ("pair", "alpha", "ratio"))
    own = pair * (2 + 2 + 3 * 2 * 2)
    rebuilt = own + 4 + (ratio * 2 + alpha) * 2
    height, width = layout["tile"]
    places = (own + 2 + alpha, rebuilt, own, rebuilt + 1, own + 1)
    for (uri, _, _), place in zip(panel["strip"], places, strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert min(shown.size) >= 128
        y, x = np.array(divmod(place, layout["columns"])) * (height, width)
        small = shown.resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(small, sheet[y : y + height, x : x + width])
    assert [caption for _, caption, _ in panel["strip"]] == [
        "mixture",
        "predicted",
        "original",
        "predicted",
        "original",
    ]


def test_reading_back(held_out, tmp_path):
    assert panels.read(tmp_path) is None
    explorer.write(constant(0.0), held_out, tmp_path, **OPTIONS)
    found = panels.read(tmp_path)
    assert found["image"].startswith("data:image/png;base64,iVBOR")
    assert found["layout"]["alphas"] == [0.1, 0.3]
    check_strip(found, tmp_path / "explorer.png")
    layout, sprite = tmp_path / "explorer.json", tmp_path / "explorer.png"
    whole = layout.read_text()
    for broken in (whole[:-20], "[]", "{}", '{"image": "explorer.png"}'):
        layout.write_text(broken)
        assert panels.read(tmp_path) is None
    layout.write_text(whole)
    # Killed between two files: the sprite is of another evaluation.
    explorer.write(constant(1.0), held_out, tmp_path / "other", **OPTIONS)
    sprite.write_bytes((tmp_path / "other" / "explorer.png").read_bytes())
    assert panels.read(tmp_path) is None
    sprite.unlink()
    assert panels.read(tmp_path) is None


@pytest.mark.slow
def test_evaluating_a_run_draws_its_panel(evaluated, imae_config):
    config = imae_config()
    panel = panels.read(evaluated / "figures")
    assert panel["layout"]["alphas"] == list(config.explorer.alphas)
    assert panel["layout"]["trained_mask_ratio"] == config.mask.ratio
    assert np.isfinite(panel["layout"]["mse"]).all()
    sheet = Image.open(evaluated / "figures" / explorer.SWEEP_FILE)
    assert min(sheet.size) > 300


@pytest.mark.slow
def test_a_run_without_a_panel(imae_config, tmp_path, capsys):
    config = imae_config()
    config.evals = {}
    config.loss.norm_pix = True
    train(config, tmp_path, stop_at=1)
    evaluation.evaluate(config, tmp_path)
    assert "no panel: with loss.norm_pix" in capsys.readouterr().out
    del config.explorer
    evaluation.evaluate(config, tmp_path)
    assert "panel" not in capsys.readouterr().out
