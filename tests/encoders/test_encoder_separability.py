"""Planted encoders through the command line, and the function on arrays."""

import errno
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import planted
import pytest
from PIL import Image
from running import call

import imae_jax
import main
from imae_jax.distributed import processes
from imae_jax.encoders.encoder import Encoder, Preprocessing
from imae_jax.encoders.mixture_stream import LazyImages, patch_pixels
from imae_jax.encoders.separability import _score as score_of
from imae_jax.errors import UserError

WEIGHTS = Path(__file__).parents[2] / "weights"


def noise(count, side=2, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side, 3), np.uint8)


def save(images, folder):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05d}.png", compress_level=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with the planted encoders, `noise` and `codes`."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(Path(__file__).parent / "planted.py", folder)
    save(noise(12_000), folder / "noise" / "train")
    save(noise(8000, seed=1), folder / "noise" / "test")
    drawn = np.random.default_rng(0).integers(0, len(planted.CODES), 400)
    save(planted.CODES[drawn].astype(np.uint8), folder / "codes" / "train")
    save(planted.CODES[drawn[:200]].astype(np.uint8), folder / "codes" / "test")
    return folder


@pytest.fixture
def ran(folders, monkeypatch, capsys):
    """Runs `separability` in this process; returns its status and output."""
    monkeypatch.chdir(folders)
    # JAX runs already, so no other process can be joined.
    monkeypatch.setattr(processes, "join", lambda *args, **kwargs: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["main.py", "separability", *arguments])
        status = main.main()
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def measured(ran, out, *arguments):
    status, printed = ran(*arguments, f"--out={out}")
    assert status == 0, printed
    found = json.loads((out / "separability.json").read_text())
    assert {x.name for x in out.iterdir()} == {
        f"separability.{kind}" for kind in ("json", "md", "svg")
    }
    return found["rows"], printed


def refused(ran, *arguments):
    status, printed = ran(*arguments)
    (line,) = [x for x in printed.splitlines() if x.startswith("error: ")]
    assert status == 1 and printed.strip().endswith(line)
    return line


@pytest.mark.slow
def test_linear_encoders_gain_nothing_on_noise(ran, tmp_path):
    rows, printed = measured(
        ran,
        tmp_path / "out",
        "--encoder=python:planted:identity,size=2",
        "--encoder=python:planted:mean_colour,size=2",
        "--data=noise",
        "--alphas=0.3",
    )
    names = [f"python:planted:{x},size=2" for x in ("identity", "mean_colour")]
    by_label = {(row["encoder"], row["control"]): row for row in rows}
    # Pixels are 12 independent numbers; the mean colour's 3 are less of a sample.
    for name, allowed in zip(names, (0.01, 0.03), strict=True):
        for score, null in zip(by_label[name, ""]["scores"], (0.155,), strict=True):
            assert score["gain"] == pytest.approx(0, abs=allowed)
            assert score["subordinate"] == pytest.approx(null, abs=0.03)
            assert score["low"] < score["gain"] < score["high"]
        assert by_label[name, "raw pixels"]["scores"][0]["gain"] == pytest.approx(
            0, abs=allowed
        )
    assert by_label[names[1], "raw pixels"]["width"] == 12
    assert by_label[names[1], "random features"]["width"] == 3
    assert by_label[names[0], ""]["rank"] == pytest.approx(12, abs=0.2)
    assert "do not rank encoders" in printed and "superposition (null)" in printed


def test_an_encoder_that_unmixes_a_codebook_gains_all(ran, tmp_path):
    rows, _ = measured(
        ran,
        tmp_path / "out",
        "--encoder=python:planted:unmix,size=2",
        "--data=codes",
        "--alphas=0.3",
    )
    gains = {row["control"]: row["scores"][0]["gain"] for row in rows}
    assert gains[""] > 0.9 and gains["raw pixels"] < 0.3


def test_a_common_target_ranks_and_pixels_are_one(ran, tmp_path):
    options = ("--encoder=python:planted:unmix,size=2", "--data=codes", "--alphas=0.3")
    rows, printed = measured(ran, tmp_path / "out", *options, "--target=pixels")
    assert rows[0]["target"] == "pixels" and rows[0]["scores"][0]["gain"] > 0.9
    rows, _ = measured(
        ran, tmp_path / "more", *options, "--target=python:planted:mean_colour,size=2"
    )
    assert rows[0]["target"] == "python:planted:mean_colour,size=2"
    assert rows[0]["scores"][0]["gain"] > 0.9


def test_an_encoder_is_given_a_name(ran, tmp_path):
    address = "python:planted:unmix,size=2"
    options = (f"--encoder=a net={address}", "--data=codes", "--alphas=0.3")
    rows, printed = measured(ran, tmp_path / "out", *options, "--target=a net")
    assert {row["encoder"] for row in rows} == {row["target"] for row in rows} == {"a net"}
    assert all(address in row["preprocessing"] for row in rows)
    assert f"; {address})" in printed and "| a net |" in printed
    assert "must be one of run:WORKDIR" in refused(
        ran, "--encoder=a net=vit", "--data=codes"
    )


@pytest.mark.parametrize(
    "options,said",
    [
        (
            ["--encoder=python:planted:constant,size=2"],
            "planted:constant,size=2 is constant",
        ),
        (["--encoder=python:planted:crooked,size=2"], "gave [63, 12]"),
        (["--encoder=python:planted:failing,size=2"], "RuntimeError: no such layer"),
        (
            ["--encoder=python:planted:bright_only_together,size=2"],
            "same image in another batch",
        ),
        (["--encoder=python:planted:identity,size=64"], "of 12288 numbers; at most 8192"),
        (["--encoder=python:planted:missing"], "which has no 'missing'"),
        (["--encoder=python:nowhere:f"], "nowhere cannot be imported"),
        (["--encoder=python:planted"], "must be python:MODULE:FUNCTION"),
        (["--encoder=tim:vit"], "did you mean 'timm'?"),
        (["--encoder=vit"], "must be one of run:WORKDIR, file:"),
        (["--encoder=onnx:"], "must be onnx:FILE"),
        (["--encoder=file:/no/such/file"], "/no/such/file does not exist"),
        (["--encoder=file:x,size=2,colour=1"], "colour is none"),
        (["--encoder=onnx:a, b.onnx"], "a, b.onnx': must be onnx:FILE; there is no such"),
        (
            ["--encoder=python:planted:identity,size=2,mean=grey"],
            "with mean=NUMBER, or one",
        ),
        (["--encoder=python:planted:identity,size=-2"], "give HEIGHT or HEIGHTxWIDTH"),
        (["--encoder=python:planted:identity,size=2,mean=0.5"], "with both mean= and std="),
        (
            ["--encoder=python:planted:identity,size=2,mean=0,std=0"],
            "with std=NUMBER above 0",
        ),
        (
            ["--encoder=python:planted:identity,size=2,mean=0,std=nan"],
            "with std=NUMBER, or one",
        ),
        (
            ["--encoder=python:planted:identity,size=2,interpolation=cubic"],
            "with interpolation= one of nearest, bilinear, bicubic, lanczos",
        ),
        (["--encoder=python:planted:identity,size=2", "--alphas=0.3,x"], "invalid alphas"),
        (
            ["--encoder=python:planted:identity,size=2", "--alphas=0.5"],
            "invalid alphas=0.5",
        ),
        (
            ["--encoder=python:planted:identity,size=2", "--features=all"],
            "invalid features='all'",
        ),
        (
            ["--encoder=python:planted:identity,size=2", "--target=me"],
            "invalid encoder='me'",
        ),
        (
            ["--encoder=python:planted:identity,size=2", "--data=nowhere"],
            "invalid data='nowhere'",
        ),
        (["--encoder=python:planted:identity,size=2", "--num_images=5"], "too few"),
        (["--encoder=python:planted:identity,size=2", "--num_images=0"], "at least 1"),
        (["--encoder=python:planted:identity,size=2", "--batch_size=1"], "of at least 2"),
        (["--encoder=python:planted:identity,size=2", "--seed=-1"], "of at least 0"),
        (["--encoder=python:planted:identity,size=2"] * 2, "two are named"),
        (
            ["--encoder=python:planted:identity,size=2", "--out=planted.py"],
            "must be a folder",
        ),
        (
            ["--encoder=python:planted:identity,size=2", "--out=planted.py/deep/er"],
            "must be a folder that can be written",
        ),
        (
            ["--encoder=python:planted:identity,size=2", "--data_dir=nowhere"],
            "invalid data_dir='nowhere': must be left out: --data=codes is a folder",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(ran, options, said):
    data = [] if any("--data=" in x for x in options) else ["--data=codes"]
    assert said in refused(ran, *options, *data)


@pytest.mark.parametrize(
    "sizes,target,decoded",
    [
        (("size=2", "size=4x6"), "own", "4x6"),
        (("size=4", None), "own", "4x4"),
        (("size=2",), "python:planted:mean_colour,size=8", "8x8"),
        ((None,), "own", "64x64"),
    ],
)
def test_a_folder_is_decoded_at_the_largest_known_size(ran, sizes, target, decoded):
    encoders = [
        "--encoder=" + ",".join(filter(None, [f"e{n}=python:planted:mean_colour", size]))
        for n, size in enumerate(sizes)
    ]
    options = "--data=codes", "--alphas=0.3", "--num_images=60", f"--target={target}"
    status, printed = ran(*encoders, *options)
    assert status == 0 and f"of {decoded} pixels, channels: 3" in printed, printed


def test_what_cannot_be_written_is_shown(ran, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("imae_jax.storage.atomic_files.write_json", full)
    status, printed = ran(
        "--encoder=python:planted:identity,size=2",
        "--data=codes",
        "--alphas=0.3",
        "--num_images=60",
        f"--out={tmp_path}/out",
    )
    assert status == 1 and "superposition (null)" in printed and "No space" in printed


def test_the_command_runs_as_a_process(folders):
    options = [
        "--encoder=python:planted:constant,size=2",
        "--data=codes",
        "--num_images=20",
    ]
    done = call("separability", *options, cwd=folders)
    assert done.returncode == 1 and "is constant" in done.stderr, done.stderr
    assert "2x2, pixels 0..255" in done.stdout


@pytest.mark.parametrize("branches", [False, True])
def test_scores_are_those_of_mixture_separability(branches):
    weights = np.random.default_rng(3).normal(size=(12, 8))

    def tokens(images):
        found = np.tanh((images.reshape(len(images), -1) / 128 - 1) @ weights)
        return found.reshape(len(images), 2, 4) + 5

    def heads(images):
        return np.stack([tokens(images), np.square(tokens(images))], axis=1)

    train, test = noise(120), noise(60, seed=1)
    options = dict(batch_size=32, seed=2)
    encode = heads if branches else tokens
    wanted = imae_jax.mixture_separability(
        encode, train, test, target=tokens, branches=branches, alpha=0.3, **options
    )
    found = imae_jax.separability(
        Encoder("mine", encode, branches=branches),
        train,
        test_images=test,
        target=tokens,
        features="tokens",
        alphas=0.3,
        **options,
    )
    (score,) = found.rows[0].scores
    for name in ("subordinate", "dominant"):
        assert getattr(score, name) == pytest.approx(wanted[f"{name}/r2"], abs=1e-9)
    assert found.gain == score.gain == pytest.approx(wanted["gain"], abs=1e-9)


def test_pooled_features_are_the_mean_over_patches():
    def tokens(images):
        flat = images.reshape(len(images), 4, 3)
        return np.concatenate([1e6 * np.square(flat[:, :1]), flat], axis=1)

    images = noise(80)
    of_tokens = imae_jax.separability(
        Encoder("a", tokens, num_prefix=1), images, alphas=0.2
    )
    of_means = imae_jax.separability(
        Encoder("a", lambda x: x.mean(axis=(1, 2))), images, alphas=0.2
    )
    assert of_tokens.gain == pytest.approx(of_means.gain, abs=1e-6)
    only = Encoder("a", lambda x: tokens(x)[:, :2], num_prefix=2)
    with pytest.raises(UserError, match="a gave no token of a patch"):
        imae_jax.separability(only, images)


def test_the_result_is_read_as_text_table_chart_and_numbers():
    found = imae_jax.separability({"mine": planted.identity}, noise(100), alphas=(0.3, 0.1))
    assert found.alphas == [0.1, 0.3]
    first, *rows = repr(found).splitlines()
    assert first.split()[-2:] == ["0.1", "0.3"] and rows[0].startswith("mine ")
    assert "60 train, 15 validation, 25 test" in repr(found)
    assert "| superposition (null) | 0.3 | 0.155 | 0.845 | 0 |" in found.table()
    assert found.table().count("| mine: raw pixels |") == 2
    labels = [text.get_text() for text in found.plot().legends[0].get_texts()]
    expected = ["the encoder", "raw pixels", "random features", "superposition, fitted"]
    assert labels == [*expected, "superposition (null)"]
    numbers = json.loads(json.dumps(found.to_dict()))
    assert numbers["rows"][0]["scores"][1]["alpha"] == 0.3
    assert numbers["null_r2"]["0.3"][0] == pytest.approx(0.155, abs=1e-3)


def test_fitted_superposition_is_what_a_linear_encoder_has():
    found = imae_jax.separability(planted.identity, noise(300, side=4), alphas=0.3)
    by_control = {row.control: row.scores[0] for row in found.rows}
    fitted = by_control["superposition, fitted"]
    # Far below the null of 0, which endless images have: 48 numbers, 180 images.
    assert fitted.gain < -0.1
    assert by_control[""].gain == pytest.approx(fitted.gain, abs=1e-6)
    assert "is the null for these" in found.notes()
    alone = imae_jax.separability(planted.identity, noise(100), alphas=0.3, controls=False)
    assert [row.control for row in alone.rows] == [""]
    assert "is the null for these" not in alone.notes()


@pytest.mark.parametrize("target", ["own", "pixels"])
def test_the_pixels_of_a_masked_encoder_are_those_that_it_sees(target):
    kept = np.array([14, 3, 9, 4])

    def pixels_of_kept_patches(images):
        patches = images.reshape(len(images), 4, 2, 4, 2, 3).swapaxes(2, 3)
        return patches.reshape(len(images), 16, -1)[:, kept]

    encoder = Encoder("masked", pixels_of_kept_patches, kept=kept, num_patches=16)
    options = dict(alphas=0.3, features="tokens", target=target)
    found = imae_jax.separability(encoder, noise(1200, side=8), **options)
    gains = {row.control: row.scores[0].gain for row in found.rows}
    assert gains[""] == pytest.approx(0, abs=0.05)
    assert gains["raw pixels"] == pytest.approx(gains[""], abs=1e-3)


def test_a_chart_of_several_encoders_has_a_panel_for_each():
    encoders = {f"net {n}": planted.identity for n in range(4)}
    figure = imae_jax.separability(encoders, noise(100), alphas=(0.1, 0.3)).plot()
    assert [axis.get_title() for axis in figure.axes] == list(encoders)
    assert len(figure.legends[0].get_texts()) == 5
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 and legend.x1 <= figure.bbox.x1


def test_intervals_cover_other_test_pairs():
    """95 % intervals of a fixed map's gain, on twenty draws of test pairs."""
    train, covered = noise(2000), 0
    options = dict(alphas=0.3, controls=False)

    def score(test_images):
        found = imae_jax.separability(
            planted.identity, train, test_images=test_images, **options
        )
        return found.rows[0].scores[0]

    truth = score(noise(4000, seed=99)).gain
    for seed in range(20):
        found = score(noise(100, seed=seed + 1))
        covered += found.low <= truth <= found.high
        assert 0.005 < found.high - found.low < 0.5
    assert covered >= 16


def test_intervals_are_drawn_over_pairs_not_over_mixtures():
    """Two mixtures of one pair that say the same are no more than one of them."""
    errors = np.random.default_rng(1).uniform(0.1, 1, (40, 2, 2))
    same = np.repeat(errors, 2, axis=0)  # within each pair
    mixed = np.concatenate([errors, errors])
    scores = [score_of(0.3, x, "x", seed=0) for x in (same, mixed)]
    assert scores[0].gain == pytest.approx(scores[1].gain)
    wide, narrow = (score.high - score.low for score in scores)
    assert 1.2 < wide / narrow < 1.7  # about the root of 2


def test_lazy_images_are_read_batch_by_batch():
    images, most = noise(200), []

    def read(indices):
        most.append(len(indices))
        return images[indices]

    lazy = LazyImages(images.shape, read)
    options = dict(alphas=0.3, batch_size=16)
    found = imae_jax.separability(planted.identity, lazy, **options)
    assert max(most) == 16
    assert found.gain == imae_jax.separability(planted.identity, images, **options).gain


def test_preprocessing_keeps_mixtures_and_repeats_grey():
    mixed = Preprocessing((6, 4), 3, (0.2, 0.3, 0.4), (0.5, 0.6, 0.7), "bicubic")
    a, b = (noise(2, 8, seed)[..., :1].astype(np.float32) for seed in (0, 1))
    found = mixed(0.3 * a + 0.7 * b)
    assert found.shape == (2, 6, 4, 3) and found.dtype == np.float32
    assert found == pytest.approx(0.3 * mixed(a) + 0.7 * mixed(b), abs=1e-4)
    pixels = found * np.float32(mixed.std) + np.float32(mixed.mean)
    assert pixels[..., 0] == pytest.approx(pixels[..., 2], abs=1e-5)
    reference = Image.fromarray(a[0, ..., 0]).resize((4, 6), Image.Resampling.BICUBIC)
    assert 255 * mixed(a)[0, ..., 1] * 0.6 + 0.3 * 255 == pytest.approx(
        np.asarray(reference), abs=0.02
    )
    with pytest.raises(UserError, match="images have 3 channels; the encoder takes 1"):
        Preprocessing(channels=1)(noise(2))


def test_pixels_of_patches_are_those_of_the_grid_that_the_encoder_sees():
    image = np.arange(8.0)[:, None, None] * np.ones((1, 32, 1))  # a row's number
    image = image + 100 * np.arange(32)[None, :, None]  # a column's, times 100
    found = patch_pixels(image[None], 1 + 4, 1, None)[0]
    # One row of four squares of 8 pixels, after the class token.
    assert found.shape == (5, 64)
    assert found[1:].mean(axis=1) == pytest.approx([353.5, 1153.5, 1953.5, 2753.5])
    assert found[0].mean() == pytest.approx(image.mean())
    # An encoder that sees it as a square has as many rows as columns.
    squared = patch_pixels(image[None], 4, 0, (16, 16))[0]
    assert squared.mean(axis=1) == pytest.approx([751.5, 2351.5, 755.5, 2355.5])
    assert patch_pixels(image[None], 6, 0, None) is None
    assert patch_pixels(image[None], 1, 0, None).shape == (1, 1, 8 * 16)


@pytest.mark.parametrize("scale", [1 / 255, -1.0, 2.0])
def test_images_of_another_range_are_refused(scale):
    with pytest.raises(UserError, match="images holds values from .*; they must be in"):
        imae_jax.separability(tokens(3), scale * noise(120).astype(np.float32))


def tokens(count):
    """An encoder of as many tokens, each some of the image's numbers."""
    return lambda images: images.reshape(len(images), count, -1)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(test_images=noise(60, side=4)), "the images must be of one shape"),
        (dict(target=lambda x: np.ones((len(x), 3))), "is constant|do not vary"),
        (dict(target="pixels", features="tokens"), "3 tokens of net form no grid"),
        (dict(target=tokens(4), features="tokens"), "net gave 3 tokens, target <lambda> 4"),
    ],
)
def test_images_and_targets_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        imae_jax.separability({"net": tokens(3)}, noise(120), **options)


def test_several_encoders_of_own_targets_are_not_ranked():
    given = {"a": planted.identity, "b": planted.mean_colour}
    found = imae_jax.separability(given, noise(200), alphas=(0.3,))
    assert "Gains towards different targets do not rank encoders" in found.notes()


@pytest.mark.parametrize("given", [[], 3, [3], {"a": None}])
def test_what_is_no_encoder_is_refused(given):
    with pytest.raises(UserError, match="^encoder"):
        imae_jax.separability(given, noise(100))


@pytest.mark.slow
def test_our_own_weights(ran, tmp_path):
    teacher = f"file:{WEIGHTS / 'cifar10_small_teacher.safetensors'}"
    student = f"file:{WEIGHTS / 'cifar10_small_imae.safetensors'}"
    rows, printed = measured(
        ran,
        tmp_path / "out",
        f"--encoder={teacher},output=latents,mask_ratio=0.5",
        f"--encoder={student},output=latents,mask_ratio=0.5",
        f"--target={teacher},output=latents,mask_ratio=0.5",
        "--data=codes",
        "--num_images=40",
        "--alphas=0.3",
        "--features=tokens",
    )
    assert printed.count("patches, one mask for all images") >= 2
    labels = [row["control"] for row in rows]
    controls = ["raw pixels", "random features", "untrained", "superposition, fitted"]
    assert labels == ["", *controls] * 2
    line = refused(ran, f"--encoder={student},output=latents", "--data=codes")
    assert "for an encoder with two branches" in line
