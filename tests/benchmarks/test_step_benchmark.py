"""benchmarks/step.py, small: its numbers are there and agree with each other."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops
from imae_jax.models.factory import build_autoencoder
from imae_jax.models.layers import Compute
from imae_jax.models.masking import random_mask
from imae_jax.objectives.base import Augmentation
from imae_jax.objectives.mae import MAEObjective
from imae_jax.objectives.mask_kinds import Masking
from imae_jax.training.state import init_params

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_benchmark_counts_what_the_compiler_counts(tmp_path):
    path = tmp_path / "step.json"
    command = [sys.executable, "benchmarks/step.py", "--size=digits", "--dtype=bfloat16"]
    command += ["--batch-size=8", "--rounds=1", f"--json={path}"]
    command += ["--decoder=cross", "--predict-fraction=0.5"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(path.read_text())["digits"]
    names = "mae bfloat16", "imae bfloat16"
    crosses = [f"{name} cross 0.5" for name in names]
    assert found.keys() == {*names, *crosses, "imae shared mask bfloat16"}
    for row in found.values():
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"])
        # The compiler counts what is no matrix product, too: much at this small width.
        assert 0.5 < row["gflop_counted"] / row["gflop_compiled"] < 1
    for name, cross in zip(names, crosses, strict=True):
        ratio = found[cross]["gflop_counted"] / found[name]["gflop_counted"]
        assert found[cross]["ratio_vs_full_decoder_counted"] == pytest.approx(ratio)
        ratio = found[cross]["gflop_compiled"] / found[name]["gflop_compiled"]
        assert ratio < 0.9
    plain, shared = found["imae bfloat16"], found["imae shared mask bfloat16"]
    assert 1 < shared["ratio_vs_mae_counted"] < plain["ratio_vs_mae_counted"] < 2


def flops_of_products(jaxpr):
    """FLOPs of all matrix products in a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            lengths = [shape[axis] for axis in contracted]
            total += 2 * math.prod((*equation.outvars[0].aval.shape, *lengths))
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += flops_of_products(inner)
    return total


@pytest.mark.parametrize(
    ("attention", "fraction"), [("self", 1.0), ("cross", 1.0), ("cross", 0.5)]
)
def test_the_formula_counts_the_products_of_the_gradient(attention, fraction):
    network = build_autoencoder(
        name="mae",
        variant="mu/2",
        encoder=dict(width=64, depth=2, heads=4),
        decoder=dict(width=32, depth=2, heads=4, attention=attention),
        image_shape=(8, 8, 1),
        compute=Compute(),
    )
    masks = Masking(0.25, "random", content_weight=0.0, grid=network.grid)
    objective = MAEObjective(network, Augmentation(0.0, 1.0), masks, False, fraction)
    params = jax.eval_shape(lambda: init_params(network, 0))

    def loss(params, images):
        mask = random_mask(jax.random.key(0), 8, 16, 0.25)
        return objective.loss_of(params, None, images, mask)[0]

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, jnp.zeros((8, 8, 8, 1))).jaxpr
    counted = 8 * flops.count(network, 0.25, fraction, "mae", False)
    # The gradient of the pixels, which the compiler leaves out.
    unused = 8 * 2 * 12 * 4 * 64
    assert flops_of_products(jaxpr) == counted + unused
