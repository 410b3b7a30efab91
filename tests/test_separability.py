import numpy as np
import pytest
from sklearn.linear_model import Ridge

from imae_jax.evaluators import separability
from imae_jax.evaluators.separability import Moments

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


def score(make_target, seed=0):
    """The score where each split's target is made from (z, position, random)."""
    parts = []
    for split in range(3):
        z, position = tokens(10 * seed + split)
        random = np.random.default_rng(100 + 10 * seed + split)
        parts.append(moments(z, make_target(z, position, random), position))
    return separability.score(*parts)


WEIGHTS = np.random.default_rng(7).normal(size=(6, 4))


def test_exactly_linear_targets_are_found():
    assert score(lambda z, position, random: z @ WEIGHTS + 3)["r2"] > 0.9999


def test_independent_targets_score_zero():
    r2 = score(lambda z, position, random: random.normal(size=(len(z), 4)))["r2"]
    assert abs(r2) < 0.02


def test_what_the_position_alone_tells_is_taken_out():
    offsets = 10 * np.random.default_rng(3).normal(size=(POSITIONS, 4))
    r2 = score(lambda z, p, random: offsets[p] + random.normal(size=(len(z), 4)))["r2"]
    assert abs(r2) < 0.02
    assert score(lambda z, p, random: offsets[p] + z @ WEIGHTS)["r2"] > 0.9999


def test_planted_noise_gives_the_analytic_value():
    # h = z_1 + noise of equal variance in every channel: half of it can be explained.
    r2 = score(lambda z, position, random: z[:, :4] + random.normal(size=(len(z), 4)))["r2"]
    assert r2 == pytest.approx(0.5, abs=0.02)


def test_mse_is_per_token_and_channel():
    result = score(lambda z, p, random: z @ WEIGHTS + 2 * random.normal(size=(len(z), 4)))
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
    centred = found.centred(*found.position_means())
    weights = separability.fit_ridge(centred, ridge)
    np.testing.assert_allclose(weights, expected.coef_.T, rtol=1e-6, atol=1e-9)
    error = np.square(z_centred @ weights - h_centred).mean()
    assert separability.mean_squared_error(centred, weights) == pytest.approx(error)
