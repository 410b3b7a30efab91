"""Parameters at the start of a run."""

import jax
import numpy as np

from imae_jax.distributed.sharding import make_mesh
from imae_jax.models.factory import build_model
from imae_jax.training.state import init_params, random_params


def test_random_parameters_are_those_of_their_seed(mae_config):
    model = build_model(mae_config(), (8, 8, 1))
    found = {seed: random_params(model, seed, make_mesh()) for seed in (0, 1)}
    for seed, params in found.items():
        expected = jax.jit(init_params, static_argnums=(0, 1))(model, seed)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
            params,
            expected,
        )
    assert any(
        (np.asarray(x) != y).any()
        for x, y in zip(*map(jax.tree.leaves, found.values()), strict=True)
    )
