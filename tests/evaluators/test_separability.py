"""Known answers on made-up latents, and the same numbers by scikit-learn."""

import numpy as np
import oracle
import pytest
from sklearn.linear_model import Ridge

from imae_jax.data.load import load
from imae_jax.errors import UserError
from imae_jax.evaluators import separability
from imae_jax.evaluators.separability import linear_separability, mixture_separability
from imae_jax.evaluators.separability_scores import (
    Latents,
    assignments,
    component_scores,
    count_own,
    measure,
)
from imae_jax.models.branches import branch_names
from imae_jax.objectives.mixing import weights_at
from imae_jax.probing.ridge import AffineMap, Moments, fit
from imae_jax.probing.superposition import gain

TOKENS, WIDTH, ALPHA = 3, 4, 0.3
SEEDS = {"train": 0, "validation": 1, "test": 2}


def made(
    make_features, *, make_targets=None, batches=(700, 299, 1), splits=SEEDS, sources=2
):
    """The scores of latents made from all images' targets [B, S, T, E]."""

    def stream(split):
        random = np.random.default_rng(splits[split])
        size = (sum(batches), sources, TOKENS, WIDTH)
        targets = (make_targets or random.normal)(size=size)
        features = make_features(targets, random)
        ends = np.cumsum(batches)[:-1]
        for h, z in zip(np.split(targets, ends), np.split(features, ends), strict=True):
            position = np.broadcast_to(np.arange(TOKENS), (len(h), TOKENS))
            yield Latents({(ALPHA, ""): z}, h, position)

    return {name: value for _, name, value in measure(stream, TOKENS)}


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
    assert found["subordinate/r2_null"] == pytest.approx(share)
    assert found["dominant/r2_null"] == pytest.approx(1 - share)
    assert found["gain"] == pytest.approx(0, abs=0.02)
    for branch in ("subordinate", "dominant"):
        excess = found[f"{branch}/r2"] - found[f"{branch}/r2_null"]
        assert found[f"{branch}/excess"] == pytest.approx(excess)


@pytest.mark.parametrize("sources", [3, 4])
def test_a_planted_mixture_of_more_images_gives_the_null_of_each(sources):
    weights = weights_at(ALPHA, sources)
    null = weights**2 / np.sum(weights**2)

    def mixture(h, random):
        return np.stack([np.einsum("s,bste->bte", weights, h)] * sources, axis=1)

    found = made(mixture, sources=sources)
    for s, branch in enumerate(branch_names(sources)):
        assert found[f"{branch}/r2_null"] == pytest.approx(null[s])
        assert found[f"{branch}/r2"] == pytest.approx(null[s], abs=0.03)
        # Of the other images, the one that shows most in the latents.
        other = max(np.delete(null, s))
        assert found[f"{branch}/cross_r2"] == pytest.approx(other, abs=0.03)
    assert found["gain"] == pytest.approx(0, abs=0.02)


def test_the_gain_of_three_is_the_sum_of_r2_less_one_halved():
    whole = made(lambda h, random: h, sources=3)
    assert whole["gain"] == pytest.approx(1, abs=1e-3)
    assert whole["assignment_accuracy"] == 1
    assert abs(whole["middle_1/cross_r2"]) < 0.03
    # Two of three images whole, nothing of the third: (2 - 1) / 2.
    two = made(lambda h, random: h * np.array([0, 1, 1])[:, None, None], sources=3)
    assert two["gain"] == pytest.approx(0.5, abs=0.02)
    assert gain([0.2, 0.5, 0.9]) == pytest.approx(0.3)
    assert gain([0.2, 0.9]) == pytest.approx(0.1)


def test_noise_of_three_images_through_a_linear_encoder_has_the_null():
    noise = np.random.default_rng(0).normal(size=(6000, 4, 4, 1))
    found = mixture_separability(flat, noise[:4000], noise[4000:], sources=3)
    weights = np.array([0.2, 1 / 3, 0.7 * 2 / 3])
    null = weights**2 / np.sum(weights**2)
    for branch, value in zip(branch_names(3), null, strict=True):
        assert found[f"{branch}/r2"] == pytest.approx(value, abs=0.02)
        assert found[f"{branch}/r2_null"] == pytest.approx(value)
    assert found["gain"] == pytest.approx(0, abs=0.01)


def test_branches_of_three_images_and_their_number():
    given = dict(branches=True, target=flat, sources=3)

    def heads(x):
        return np.stack([flat(x)] * 3, axis=1)

    found = mixture_separability(heads, images(90, 0), images(60, 1), **given)
    assert "middle_1/raw_r2" in found and "middle_2/r2" not in found
    with pytest.raises(UserError, match="subordinate, middle_1 and dominant: 3, or 1"):
        mixture_separability(
            lambda x: heads(x)[:, :2], images(90, 0), images(60, 1), **given
        )
    with pytest.raises(UserError, match="invalid sources=5: must be 2, 3 or 4"):
        mixture_separability(flat, images(90, 0), images(60, 1), sources=5)


def test_assignments_are_the_best_of_all_permutations():
    """Of distances [S, S, B] by hand, and for two images as swapped or not."""
    own = np.array([[0, 5, 5], [5, 0, 5], [5, 5, 0]])
    # Each alone would have its own, but the three together have less in a circle.
    circle = np.array([[2, 1, 9], [9, 2, 1], [1, 9, 2]])
    swapped = np.array([[3, 1, 9], [1, 3, 9], [9, 9, 0]])
    tie = np.array([[1, 1, 9], [1, 1, 9], [9, 9, 0]])
    even = np.ones((3, 3))
    for distance, expected in ((own, 1), (circle, 0), (swapped, 0), (tie, 1 / 2)):
        assert count_own(distance[..., None].astype(float)) == expected
    assert count_own(even[..., None]) == pytest.approx(1 / 6)
    two = np.random.default_rng(0).integers(0, 3, (2, 2, 50)).astype(float)
    straight, exchanged = two[0, 0] + two[1, 1], two[0, 1] + two[1, 0]
    expected = (straight < exchanged).sum() + 0.5 * (straight == exchanged).sum()
    assert count_own(two) == expected


def test_gain_is_one_for_both_whole_and_zero_for_one_at_the_others_cost():
    assert made(lambda h, random: h)["gain"] == pytest.approx(1, abs=1e-3)
    winner = made(lambda h, random: np.stack([h[:, 1]] * 2, axis=1))
    assert winner["gain"] == pytest.approx(0, abs=0.02)
    assert winner["subordinate/excess"] == pytest.approx(-0.155, abs=0.02)
    assert winner["dominant/excess"] == pytest.approx(0.155, abs=0.02)


def test_components_count_the_same_however_large():
    """Of four directions, by falling variance, the first and the third are told."""
    scales = np.array([8.0, 4.0, 2.0, 1.0])

    def targets(size):
        return np.random.default_rng(size[0]).normal(size=size) * scales

    def two_of_four(h, random):
        return h * [1, 0, 1, 0]

    found = made(two_of_four, make_targets=targets)
    # 64, 16, 4 and 1 of 85: the first three hold 95 %.
    assert found["subordinate/r2"] == pytest.approx(68 / 85, abs=0.02)
    assert found["subordinate/component_r2"] == pytest.approx(2 / 3, abs=0.02)
    bands = {k: v for k, v in found.items() if k.startswith("subordinate/component_r2/")}
    expected = {"001_001": 1, "002_002": 0, "003_003": 1}
    expected = {f"subordinate/component_r2/{k}": v for k, v in expected.items()}
    assert bands == pytest.approx(expected, abs=0.02)


def test_components_by_numpy():
    """Test targets of another spread than those that the components are of."""
    random = np.random.default_rng(0)
    h = {split: random.normal(size=(500, WIDTH)) * [4, 3, 2, 1] for split in SEEDS}
    h["test"] = 2 * h["test"] @ random.normal(size=(WIDTH, WIDTH)) + 1
    z = {split: x + random.normal(size=x.shape) for split, x in h.items()}
    moments = {split: Moments.of(z[split], h[split]) for split in SEEDS}
    targets = {split: Moments.of(x, x[:, :0]) for split, x in h.items()}
    own = fit(moments["train"], moments["validation"])
    parts = own, moments["test"], targets["train"], targets["test"]
    found = dict(component_scores(*parts))
    mean = h["train"].mean(axis=0)
    _, sizes, directions = np.linalg.svd(h["train"] - mean)
    held = np.cumsum(sizes**2) / np.sum(sizes**2)
    count = 1 + np.count_nonzero(held < 0.95)
    predicted = own(z["test"], np.zeros(500, int))
    errors = np.square((predicted - h["test"]) @ directions[:count].T).sum(axis=0)
    scores = 1 - errors / np.square((h["test"] - mean) @ directions[:count].T).sum(axis=0)
    assert found["component_r2"] == pytest.approx(scores.mean())
    assert found["component_r2/001_001"] == pytest.approx(scores[0])
    assert found["component_r2/003_003"] == pytest.approx(scores[2])


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.45])
def test_on_noise_the_null_is_exact_and_nothing_is_gained(alpha):
    """The identity encoder; at least 200 rows a feature, see METHOD."""
    random = np.random.default_rng(0)
    train, test = random.normal(size=(4000, 4, 4, 1)), random.normal(size=(8000, 4, 4, 1))
    found = mixture_separability(lambda x: x.reshape(len(x), -1), train, test, alpha=alpha)
    for branch in ("subordinate", "dominant"):
        assert found[f"{branch}/r2"] == pytest.approx(found[f"{branch}/r2_null"], abs=0.01)
    assert found["gain"] == pytest.approx(0, abs=0.01)
    assert found["subordinate/r2_null"] == pytest.approx(
        alpha**2 / (alpha**2 + (1 - alpha) ** 2)
    )


def codebook(seed, count):
    """Images that are one of eight codewords each, [N, 2, 2, 1]."""
    words = np.random.default_rng(7).normal(size=(8, 4))
    chosen = np.random.default_rng(seed).integers(8, size=count)
    return words[chosen].reshape(-1, 2, 2, 1)


@pytest.mark.slow
def test_an_mlp_finds_what_is_there_but_not_linearly():
    """The sum of two codewords gives both away, though not to a linear map."""
    images = codebook(0, 6000), codebook(1, 2000)
    found = mixture_separability(lambda x: x.reshape(len(x), -1), *images, map="mlp")
    assert abs(found["gain"]) < 0.05
    assert found["mlp_gain"] > 0.9
    assert found["subordinate/mlp_r2"] > 0.9 and found["dominant/mlp_r2"] > 0.9


@pytest.mark.slow
def test_on_noise_an_mlp_gains_nothing():
    random = np.random.default_rng(0)
    images = random.normal(size=(4000, 2, 2, 1)), random.normal(size=(4000, 2, 2, 1))
    found = mixture_separability(lambda x: x.reshape(len(x), -1), *images, map="mlp")
    assert found["mlp_gain"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(alpha=0.5), r"alpha.*in \(0, 0.5\): at 0.5 nothing tells which image is"),
        (dict(map="quadratic"), "map='quadratic'.*'linear' or 'mlp'"),
    ],
)
def test_what_cannot_be_scored_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        mixture_separability(lambda x: x, codebook(0, 20), codebook(1, 20), **options)


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
    weights, means = np.zeros((WIDTH, WIDTH)), np.zeros((2, TOKENS, WIDTH))
    nothing = AffineMap(weights, *means, ridge=1.0, seen=np.ones(TOKENS, bool))
    row = (ALPHA, "")
    maps = {(row, 0): nothing, (row, 1): nothing}
    assert assignments(Latents({row: 0 * h}, h, position), maps) == {row: 4.5}


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
        (lambda z, h: (z[:, 0], h), r"train_features is float64 .500.; it must be .N, D."),
        (lambda z, h: (z[:99], h), "train_targets is .* it must have 99 rows"),
        (lambda z, h: (z[:2], h[:2]), "train_features is .* at least 3 rows"),
        (lambda z, h: (z[:, :5], h), "test_features is .* it must have 5 columns"),
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

    given = images(2000, 0), images(500, 1)
    found = mixture_separability(encode, *given, target=masked, branches=True)
    assert found["dominant/r2"] == pytest.approx(0, abs=0.02)
    assert found["subordinate/r2"] == pytest.approx(0.3**2 / (0.3**2 + 0.7**2), abs=0.03)


def flat(x):
    return x.reshape(len(x), -1)


def as_tokens(x):
    return x.reshape(len(x), 4, 4)


def heads(x):
    return np.stack([as_tokens(x)] * 2, axis=1)


def test_one_branch_and_pooled_branches_can_be_measured():
    given, options = (images(200, 0), images(100, 1)), dict(target=flat, branches=True)
    both = mixture_separability(
        lambda x: np.stack([flat(x)] * 2, axis=1), *given, **options
    )
    assert both == mixture_separability(flat, *given)
    one = mixture_separability(lambda x: flat(x)[:, None, None], *given, **options)
    assert one["subordinate/r2"] == both["subordinate/r2"] and "dominant/r2" not in one


@pytest.mark.parametrize(
    "encode,options,message",
    [
        (
            heads,
            {},
            r"encode gave is .* \[40, 2, 4, 4\]; .* branches=True; a map .* \[B, T, D\]",
        ),
        (heads, dict(target=heads, branches=True), r"target gave is .* \[40, 2, 4, 4\]"),
        (heads, dict(branches=True), "branches=True needs target"),
        (as_tokens, dict(branches=True, target=flat), "second axis is the branches"),
        (
            flat,
            dict(branches=True, target=flat),
            r"it must be \[B, S, D\] or \[B, S, T, D\]",
        ),
        (flat, dict(branches="no"), "invalid branches='no'"),
        (as_tokens, dict(target=flat), "encode gave 4 tokens, target 1: they do not fit"),
        (flat, dict(alpha=0.7), r"invalid alpha=0.7: must be in \(0, 0.5\)"),
        (flat, dict(alpha=np.nan), "alpha=nan"),
        (flat, dict(alpha="0.3"), "alpha='0.3'"),
        (
            flat,
            dict(batch_size=0),
            "invalid batch_size=0: must be a whole number",
        ),
        (flat, dict(batch_size=8.0), "batch_size=8.0"),
        (flat, dict(batch_size=True), "batch_size=True"),
        (flat, dict(seed=-1), "seed=-1"),
        (None, {}, "encode is NoneType; it must be a function"),
        (lambda x: x[::2].reshape(len(x) // 2, -1), {}, r"\[20, 16\] for 40 images"),
        (
            lambda x: flat(x)[:, 0],
            {},
            r"encode gave is float32 \[40\]; it must be \[B, D\]",
        ),
        (lambda x: 1.0, {}, r"encode gave is float64 \[\]"),
        (lambda x: (flat(x), None), {}, "encode gave tuple; it must give one array"),
        (lambda x: None, {}, "encode gave NoneType"),
        (lambda x: flat(x) * 1j, {}, "complex64 .* real numbers"),
        (lambda x: flat(x) * np.nan, {}, "encode gave is not finite"),
        (lambda x: flat(x).astype(object), {}, "object .* real numbers"),
        (lambda x: 0 * flat(x), {}, "targets do not vary"),
    ],
)
def test_encoders_that_are_none_get_one_line(encode, options, message):
    with pytest.raises(UserError, match=message):
        mixture_separability(encode, images(50, 0), images(40, 1), **options)


DROPOUT = np.random.default_rng(0)


def batch_norm(x):
    x = flat(x)
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)


@pytest.mark.parametrize(
    "encode",
    [
        lambda x: flat(x) * (DROPOUT.random(16) > 0.5),
        batch_norm,
        lambda x: flat(x)[::-1],
        lambda x: np.repeat(flat(x)[::2], 2, axis=0),
    ],
)
def test_features_that_are_not_an_images_own_get_one_line(encode):
    with pytest.raises(UserError, match=r"encode gave other features .* \.eval\(\)"):
        mixture_separability(encode, images(50, 0), images(40, 1))
    with pytest.raises(UserError, match="target gave other features"):
        mixture_separability(flat, images(50, 0), images(40, 1), target=encode)


def test_an_answer_that_changes_later_gets_one_line():
    def narrower(x):
        return flat(x)[:, : 16 - (len(x) < 16)]

    with pytest.raises(UserError, match=r"gave \[8, 15\], but \[16\] a row before"):
        mixture_separability(narrower, images(50, 0), images(40, 1), batch_size=16)
    with pytest.raises(UserError, match=r"\[16, 16\] for 8 images"):
        mixture_separability(
            lambda x: np.concatenate([flat(x), np.zeros((16 - len(x), 16))]),
            images(50, 0),
            images(40, 1),
            batch_size=16,
        )


@pytest.mark.parametrize("kind", [np.uint8, np.int32, bool, np.float16, np.float64])
def test_one_type_of_image_reaches_encode(kind):
    train, test = (
        np.random.default_rng(seed).integers(0, 2 if kind is bool else 256, (20, 4, 4, 1))
        for seed in (0, 1)
    )
    seen = set()

    def encode(x):
        seen.add((x.dtype, x.flags.writeable, x.flags.c_contiguous))
        assert 0 <= x.min() <= 0.3 * train.max() and 0.7 * train.max() <= x.max() <= 255
        return flat(x)

    found = mixture_separability(encode, train.astype(kind), test.astype(kind), target=flat)
    assert seen == {(np.dtype(np.float32), True, True)}
    assert found == mixture_separability(flat, train * 1.0, test * 1.0)


@pytest.mark.parametrize(
    "train,test,message",
    [
        (
            images(20, 0)[..., 0],
            images(20, 1),
            r"train_images .* \[20, 4, 4\]; .*\[..., None\]",
        ),
        (
            images(20, 0),
            images(20, 1)[:, :3],
            r"test_images float64 \[20, 3, 4, 1\]; .* shape",
        ),
        (
            images(20, 0),
            np.where(images(20, 1) > 2, np.nan, 1),
            "test_images is not finite",
        ),
        (images(20, 0) * 1e39, images(20, 1), "train_images holds values .* float32"),
        (
            images(20, 0),
            [*images(20, 1), images(1, 2)[0, :3]],
            "test_images is a list of diff",
        ),
        ([*images(20, 0)[:, :, 0].astype(object), None], images(20, 1), "train_images"),
        (images(20, 0) * 1j, images(20, 1), "train_images is complex128"),
        (images(20, 0), images(1, 1), "20 train_images and 1 test_images are too few"),
        (images(0, 0), images(20, 1), "train_images is .* not be empty"),
    ],
)
def test_images_that_are_none_get_one_line(train, test, message):
    with pytest.raises(UserError, match=message):
        mixture_separability(flat, train, test)


def test_encoders_may_write_to_their_images_and_reuse_their_features():
    room = np.zeros((300, 16), np.float32)

    def rude(x):
        room[: len(x)] = flat(x)
        x[:] = 7
        return room[: len(x)]

    given = images(300, 0), images(200, 1)
    assert mixture_separability(rude, *given) == mixture_separability(flat, *given)


@pytest.mark.parametrize("batch_size", [1, 7, 40, 1000])
def test_any_batch_size_gives_the_same(batch_size):
    given = images(50, 0), images(41, 1)
    expected = mixture_separability(as_tokens, *given, batch_size=64)
    found = mixture_separability(as_tokens, *given, batch_size=batch_size)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_where_zero_lies_does_not_matter():
    given = images(60, 0), images(40, 1)
    expected = mixture_separability(flat, *given)

    def far(x):
        return flat(x).astype(np.float64) + 1e7

    found = mixture_separability(far, *given)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    z, h = arrays(0)
    expected = linear_separability(z[:400], h[:400], z[400:], h[400:])
    found = linear_separability(z[:400] + 1e7, h[:400] - 1e6, z[400:] + 1e7, h[400:] - 1e6)
    assert found == pytest.approx(expected, rel=1e-5)


def test_rows_without_a_network_are_left_out(data_dir):
    made = oracle.held_out(load("digits", data_dir))
    (batch, *_) = made.batches("test", batch_size=300, seed=0)
    student = oracle.student(made, (0.3,), latents=oracle.one_hot)
    mae = oracle.teacher()
    found = dict(separability.rows({"student": student, "random": mae}, batch, 0.3, 2))
    random = ["baselines/random/", "baselines/random_tokens/"]
    assert list(found) == ["", *random, "baselines/raw_pixels/"]
    assert found[""].shape == (300, 2, 9, 10)
    assert found["baselines/random/"].shape == (300, 2, 9, 64)
