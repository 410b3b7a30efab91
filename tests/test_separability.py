"""Known answers on made-up latents, and the same numbers by scikit-learn."""

import numpy as np
import oracle
import pytest
from sklearn.linear_model import Ridge

from imae_jax.data import sources
from imae_jax.errors import UserError
from imae_jax.evaluators import separability
from imae_jax.evaluators.latents import Latents, assignments, measure
from imae_jax.evaluators.linear import AffineMap
from imae_jax.evaluators.separability import linear_separability, mixture_separability

TOKENS, WIDTH = 3, 4
SEEDS = {"train": 0, "validation": 1, "test": 2}


def made(make_features, *, make_targets=None, batches=(700, 299, 1), splits=SEEDS):
    """The scores of latents made from both images' targets [B, S, T, E]."""

    def stream(split):
        random = np.random.default_rng(splits[split])
        size = (sum(batches), 2, TOKENS, WIDTH)
        targets = (make_targets or random.normal)(size=size)
        features = make_features(targets, random)
        ends = np.cumsum(batches)[:-1]
        for h, z in zip(np.split(targets, ends), np.split(features, ends), strict=True):
            position = np.broadcast_to(np.arange(TOKENS), (len(h), TOKENS))
            yield Latents({"": z}, h, position)

    return dict(measure(stream, TOKENS))


def test_separated_means_own_high_and_cross_low():
    found = made(lambda h, random: 2 * h + 1)
    for branch in ("subordinate", "dominant"):
        assert found[f"{branch}/r2"] > 0.9999
        assert abs(found[f"{branch}/cross_r2"]) < 0.02
    assert found["assignment_accuracy"] == 1


def test_heads_exchanged_have_a_low_own_and_a_high_cross():
    found = made(lambda h, random: h[:, ::-1])
    assert abs(found["subordinate/r2"]) < 0.02 and found["dominant/cross_r2"] > 0.9999
    assert abs(found["assignment_accuracy"] - 0.5) < 0.05


def test_a_planted_mixture_gives_the_analytic_value():
    """z = a h_sub + (1 - a) h_dom explains a^2 / (a^2 + (1 - a)^2) of h_sub."""
    a = 0.3

    def mixture(h, random):
        return np.stack([a * h[:, 0] + (1 - a) * h[:, 1]] * 2, axis=1)

    found = made(mixture)
    share = a**2 / (a**2 + (1 - a) ** 2)
    assert found["subordinate/r2"] == pytest.approx(share, abs=0.02)
    assert found["dominant/r2"] == pytest.approx(1 - share, abs=0.02)
    assert found["subordinate/cross_r2"] == pytest.approx(1 - share, abs=0.02)


def test_shuffled_targets_score_zero():
    found = made(lambda h, random: random.permutation(h))
    assert abs(found["subordinate/r2"]) < 0.02
    assert abs(found["assignment_accuracy"] - 0.5) < 0.05


def test_two_random_heads_of_an_even_mixture_cannot_tell_which_is_which():
    """Though a classifier would tell head 0's latents from head 1's without fail."""
    heads = np.random.default_rng(5).normal(size=(2, WIDTH, WIDTH))
    offsets = np.array([-100.0, 100.0])[:, None, None]

    def random_heads(h, random):
        return np.einsum("bte,sef->bstf", h.mean(axis=1), heads) + offsets

    found = made(random_heads)
    assert found["subordinate/r2"] == pytest.approx(0.5, abs=0.03)
    assert abs(found["assignment_accuracy"] - 0.5) < 0.05


def test_latents_that_say_nothing_are_a_tie():
    h = np.random.default_rng(0).normal(size=(9, 2, TOKENS, WIDTH))
    position = np.broadcast_to(np.arange(TOKENS), (9, TOKENS))
    nothing = AffineMap(np.zeros((WIDTH, WIDTH)), *np.zeros((2, TOKENS, WIDTH)), ridge=1.0)
    maps = {("", 0): nothing, ("", 1): nothing}
    assert assignments(Latents({"": 0 * h}, h, position), maps) == {"": 4.5}


def test_position_is_a_control_and_centred_away():
    offsets = np.array([-3.0, 0.0, 3.0])[:, None]

    def targets(size):
        return np.random.default_rng(size[0]).normal(size=size) + offsets

    def position_only(h, random):
        return np.broadcast_to(offsets, h.shape)

    found = made(position_only, make_targets=targets)
    assert abs(found["subordinate/r2"]) < 0.02
    expected = offsets.var() / (1 + offsets.var())
    assert found["position_only/subordinate/r2_uncentred"] == pytest.approx(
        expected, abs=0.02
    )
    # Without centring, latents that only know the position look good.
    assert found["subordinate/r2_uncentred"] == pytest.approx(expected, abs=0.02)


def test_raw_distance_needs_no_map():
    found = made(lambda h, random: h + 0.5)
    assert found["dominant/raw_mse"] == pytest.approx(0.25)
    assert found["dominant/raw_r2"] == pytest.approx(0.75, abs=0.02)
    other_width = made(lambda h, random: np.concatenate([h, h], axis=-1))
    assert "dominant/raw_mse" not in other_width and other_width["dominant/r2"] > 0.9999


def test_one_branch_has_no_assignment():
    found = made(lambda h, random: h[:, :1])
    assert found["subordinate/r2"] > 0.9999 and abs(found["subordinate/cross_r2"]) < 0.02
    assert "dominant/r2" not in found and "assignment_accuracy" not in found


def test_batches_do_not_matter():
    def features(h, random):
        return h + random.normal(size=h.shape)

    expected = made(features, batches=(1000,))
    assert made(features, batches=(1, 333, 666)) == pytest.approx(expected, rel=1e-9)


def test_too_few_examples_get_one_line():
    with pytest.raises(UserError, match="this run, subordinate: 3 training"):
        made(lambda h, random: h, batches=(1,))


def arrays(seed, count=500):
    random = np.random.default_rng(seed)
    z = random.normal(size=(count, 6))
    return z, z @ np.random.default_rng(9).normal(size=(6, 3)) + random.normal(
        size=(count, 3)
    )


@pytest.mark.parametrize("ridge", [1e-6, 0.5])
def test_linear_separability_is_scikit_learns_ridge(ridge):
    (train_z, train_h), (test_z, test_h) = arrays(0), arrays(1)
    found = linear_separability(train_z, train_h, test_z, test_h, ridges=[ridge])
    penalty = ridge * np.square(train_z - train_z.mean(axis=0)).sum() / train_z.shape[1]
    predicted = Ridge(alpha=penalty).fit(train_z, train_h).predict(test_z)
    mse = np.square(predicted - test_h).mean()
    assert found["mse"] == pytest.approx(mse, rel=1e-6)
    variance = np.square(test_h - train_h.mean(axis=0)).mean()
    assert found["r2"] == pytest.approx(1 - mse / variance, rel=1e-6)


def test_linear_separability_chooses_its_ridge():
    random = np.random.default_rng(0)
    z, noise = random.normal(size=(2, 80, 40))
    weak = linear_separability(z[:60], z[:60] + 9 * noise[:60], z[60:], z[60:])
    assert weak["ridge"] > 0.1
    exact = linear_separability(z[:60], z[:60, :2] + 5, z[60:], z[60:, :2] + 5)
    assert exact["r2"] > 0.9999 and exact["ridge"] < 1e-3


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda z, h: (z[:, 0], h), "takes features .N, D. .* got .500,., .500, 3."),
        (lambda z, h: (z[:99], h), "takes features"),
        (lambda z, h: (z[:5], h[:5]), "too few for a fit of 6 inputs"),
        (lambda z, h: (np.where(z > 2, np.nan, z), h), "not finite"),
        (lambda z, h: (z, np.where(h > 2, np.inf, h)), "not finite"),
    ],
)
def test_bad_arrays_get_one_line(change, message):
    with pytest.raises(UserError, match=message):
        linear_separability(*change(*arrays(0)), *arrays(1))


@pytest.mark.parametrize("bad", [0, 1])
def test_test_arrays_that_are_not_finite_get_one_line(bad):
    test = list(arrays(1))
    test[bad] = np.where(test[bad] > 2, np.nan, test[bad])
    with pytest.raises(UserError, match="not finite"):
        linear_separability(*arrays(0), *test)


def test_test_targets_that_do_not_vary_get_one_line():
    (z, h), (test_z, _) = arrays(0), arrays(1)
    with pytest.raises(UserError, match="do not vary"):
        linear_separability(z, np.zeros_like(h), test_z, np.zeros((500, 3)))


def images(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 4, 4, 1))


@pytest.mark.parametrize("shape", [(-1,), (4, 4)])
def test_any_encoder_can_be_measured(shape):
    """The identity is linear, so its features of a mixture are the mixture of features."""

    def encode(x):
        return x.reshape(len(x), *shape)

    found = mixture_separability(
        encode, images(3000, 0), images(1000, 1), alpha=0.3, batch_size=128
    )
    share = 0.3**2 / (0.3**2 + 0.7**2)
    assert found["subordinate/r2"] == pytest.approx(share, abs=0.02)
    assert found["dominant/r2"] == pytest.approx(1 - share, abs=0.02)
    assert found["assignment_accuracy"] > 0.9


def test_an_encoder_with_two_branches_can_be_measured():
    first = np.arange(16).reshape(4, 4, 1) < 8  # half the pixels show each image

    def masked(x):
        return (x * first).reshape(len(x), 1, 16)

    def encode(x):
        return np.stack([masked(x), 0 * masked(x)], axis=1)

    found = mixture_separability(encode, images(2000, 0), images(500, 1), target=masked)
    assert found["dominant/r2"] == pytest.approx(0, abs=0.02)
    assert found["subordinate/r2"] == pytest.approx(0.3**2 / (0.3**2 + 0.7**2), abs=0.03)


def test_shapes_that_do_not_fit_get_one_line():
    some, more = images(40, 0), images(20, 1)
    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    tokens = lambda x: x.reshape(len(x), 4, 4)  # noqa: E731
    heads = lambda x: np.stack([tokens(x)] * 2, axis=1)  # noqa: E731
    for encode, target in ((heads, None), (tokens, flat)):
        with pytest.raises(UserError, match="do not fit: targets are .B, E. or .B, T, E."):
            mixture_separability(encode, some, more, target=target)
    with pytest.raises(UserError, match="alpha=0.7 is not possible"):
        mixture_separability(flat, some, more, alpha=0.7)
    with pytest.raises(UserError, match="40 training and 1 test images are too few"):
        mixture_separability(flat, some, more[:1])
    with pytest.raises(UserError, match="at least one ridge"):
        linear_separability(*arrays(0), *arrays(1), ridges=())


def test_rows_without_a_network_are_left_out(data_dir):
    made = oracle.held_out(sources.load("digits", data_dir))
    (batch, *_) = made.batches("test", batch_size=300, seed=0)
    student = oracle.student(made, (0.3,), latents=oracle.one_hot)
    mae = oracle.teacher()
    found = dict(separability.rows({"student": student, "random": mae}, batch, 0.3))
    assert list(found) == ["", "baselines/random/", "baselines/random_tokens/"]
    assert found[""].shape == (300, 2, 9, 10)
    assert found["baselines/random/"].shape == (300, 2, 9, 64)
