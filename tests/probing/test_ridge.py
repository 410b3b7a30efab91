import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from imae_jax.errors import UserError
from imae_jax.probing.ridge import Moments, fit

POSITIONS = 5


def tokens(seed, count=4000, inputs=6):
    random = np.random.default_rng(seed)
    position = random.integers(0, POSITIONS, count)
    return random.normal(size=(count, inputs)), position


def moments(z, h, position):
    found = Moments.zeros(POSITIONS, z.shape[1], h.shape[1])
    for part in np.array_split(np.arange(len(z)), 3):  # streamed
        found.add(z[part], h[part], position[part])
    return found


def score(make_target, make_input=lambda z, position: z):
    """The score where each split's target is made from (z, position, random)."""
    parts = []
    for split in range(3):
        z, position = tokens(split)
        target = make_target(z, position, np.random.default_rng(100 + split))
        parts.append(moments(make_input(z, position), target, position))
    return fit(*parts[:2]).score(parts[2])


WEIGHTS = np.random.default_rng(7).normal(size=(6, 4))
OFFSETS = 10 * np.random.default_rng(3).normal(size=(POSITIONS, 6))


def noise(z, position, random):
    return random.normal(size=(len(z), 4))


def test_tokens_where_the_fit_had_none_are_refused():
    z, position = tokens(0)
    whole, part = (
        moments(z[kept], z[kept], position[kept]) for kept in (position >= 0, position > 0)
    )
    with pytest.raises(UserError, match="tokens at 1 of 5 positions are in none of the im"):
        fit(part, whole)
    with pytest.raises(UserError, match="tokens at 1 of 5 positions are in none of the im"):
        fit(part, part).score(whole)
    assert fit(whole, part).score(part)["r2"] > 0.9999


def test_exactly_linear_targets_are_found():
    assert score(lambda z, position, random: z @ WEIGHTS + 3)["r2"] > 0.9999


def test_independent_targets_score_zero():
    assert abs(score(noise)["r2"]) < 0.02


def test_what_the_position_alone_tells_is_taken_out():
    offsets = OFFSETS[:, :4]
    assert abs(score(lambda z, p, random: offsets[p] + noise(z, p, random))["r2"]) < 0.02
    assert score(lambda z, p, random: offsets[p] + z @ WEIGHTS)["r2"] > 0.9999
    position_only = score(
        lambda z, p, random: offsets[p] + noise(z, p, random), lambda z, p: OFFSETS[p]
    )
    assert abs(position_only["r2"]) < 0.02


def test_planted_noise_gives_the_analytic_value():
    # h = z_1 + noise of equal variance in every channel: half of it can be explained.
    r2 = score(lambda z, p, random: z[:, :4] + noise(z, p, random))["r2"]
    assert r2 == pytest.approx(0.5, abs=0.02)


def test_mse_is_per_token_and_channel():
    result = score(lambda z, p, random: z @ WEIGHTS + 2 * noise(z, p, random))
    assert result["mse"] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("ridge", [1e-8, 0.3])
def test_the_map_is_scikit_learns(ridge):
    z, position = tokens(0)
    h = z @ WEIGHTS + np.random.default_rng(1).normal(size=(len(z), 4)) + position[:, None]
    means = np.stack([z[position == p].mean(axis=0) for p in range(POSITIONS)])
    targets = np.stack([h[position == p].mean(axis=0) for p in range(POSITIONS)])
    z_centred, h_centred = z - means[position], h - targets[position]
    penalty = ridge * np.square(z_centred).sum() / z.shape[1]
    expected = Ridge(alpha=penalty, fit_intercept=False).fit(z_centred, h_centred)

    found = moments(z, h, position)
    fitted = fit(found, found, [ridge])
    np.testing.assert_allclose(fitted.weights, expected.coef_.T, rtol=1e-6, atol=1e-9)
    predicted = z_centred @ expected.coef_.T
    np.testing.assert_allclose(
        fitted(z, position), predicted + targets[position], atol=1e-6
    )
    error = np.square(predicted - h_centred).mean()
    assert fitted.score(found)["mse"] == pytest.approx(error)
    assert fitted.score(found)["r2"] == pytest.approx(
        1 - error / np.square(h_centred).mean()
    )


@given(st.integers(0, 99), st.integers(1, 40))
def test_moments_do_not_depend_on_how_the_stream_is_cut(seed, first):
    z, position = tokens(seed, count=41, inputs=3)
    h = z[:, :2] ** 2
    whole = moments(z, h, position)
    added = moments(z[:first], h[:first], position[:first]) + moments(
        z[first:], h[first:], position[first:]
    )
    for name in ("count", "z", "h", "zz", "zh", "hh"):
        np.testing.assert_allclose(
            getattr(added, name), getattr(whole, name), rtol=1e-9, atol=1e-9
        )
    columns, pooled = whole.targets(slice(1, 2)), whole.pooled()
    np.testing.assert_allclose(columns.zh, z.T @ h[:, 1:], atol=1e-9)
    np.testing.assert_allclose(pooled.h, h.sum(axis=0, keepdims=True), atol=1e-9)


def test_bad_input_gets_one_line():
    z, position = tokens(0, count=7)
    few = moments(z[:3], z[:3], np.array([0, 2, 4]))
    with pytest.raises(
        UserError, match="3 training .* too few .* the means of 3 positions"
    ):
        fit(few, few)
    few = moments(z[:6], z[:6], 0 * position[:6])
    with pytest.raises(
        UserError, match=r"invalid ridges=\[1.0, 0.0\]: .* for 6 inputs and 6 training"
    ):
        fit(few, few, [1, 0])
    for ridges in ([], [-1], [np.nan], 1.0, None, ["a"]):
        with pytest.raises(UserError, match="invalid ridges=.* one or more numbers"):
            fit(few, few, ridges)
    none = Moments.zeros(POSITIONS, 6, 6)
    with pytest.raises(UserError, match="0 validation tokens are too few"):
        fit(moments(z, z, position), none)
    bad = moments(np.where(z > 1, np.nan, z), z, position)
    with pytest.raises(UserError, match="not finite"):
        fit(bad, bad)
    same = moments(z, np.full_like(z, 3.0), position)
    with pytest.raises(UserError, match="do not vary"):
        fit(same, same).score(same)
    with pytest.raises(UserError, match="no test tokens"):
        fit(same, same).score(none)


def test_tokens_of_one_position_and_inputs_of_another_width_get_one_line():
    z, position = tokens(0, count=40)
    with pytest.raises(UserError, match="h is float64 .* must be 2-D, a row a token"):
        Moments.of(z, z[None])
    linear = fit(moments(z, z, position), moments(z, z, position))
    with pytest.raises(UserError, match=r"z is float64 \[40, 5\]; it must be \[N, 6\]"):
        linear(z[:, :5], position)


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(z=np.zeros((7, 5))), r"z is float64 \[7, 5\]; it must hold .* \[N, 6\]"),
        (dict(z=np.zeros(7)), r"z is float64 \[7\]"),
        (dict(h=np.zeros((6, 6))), r"h is float64 \[6, 6\].* as many rows as z, 7"),
        (dict(h=np.zeros((7, 6)) + 1j), "h is complex128 .* real numbers"),
        (dict(position=np.zeros(6, int)), r"position is int64 \[6\]; it must be \[7\] int"),
        (dict(position=np.zeros(7)), r"position is float64 \[7\]"),
        (dict(position=np.full(7, -1)), "position must hold integers from 0 to 4"),
        (dict(position=np.full(7, 5)), "position must hold integers from 0 to 4"),
    ],
)
def test_tokens_that_do_not_fit_get_one_line(change, message):
    given = dict(z=np.ones((7, 6)), h=np.ones((7, 6)), position=np.arange(7) % POSITIONS)
    with pytest.raises(UserError, match=message):
        Moments.zeros(POSITIONS, 6, 6).add(**{**given, **change})


def test_fewer_tokens_than_inputs_are_enough_for_a_ridge():
    random = np.random.default_rng(0)
    z, weights = random.normal(size=(80, 200)), random.normal(size=(200, 2))
    h = z @ weights
    few, rest = Moments.of(z[:40], h[:40]), Moments.of(z[40:], h[40:])
    found = fit(few, rest, [0.1])
    penalty = 0.1 * np.square(z[:40] - z[:40].mean(axis=0)).sum() / 200
    expected = Ridge(alpha=penalty).fit(z[:40], h[:40]).predict(z[40:])
    np.testing.assert_allclose(found(z[40:], np.zeros(40, int)), expected, atol=1e-8)
