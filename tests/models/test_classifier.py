import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.models.factory import build_classifier
from imae_jax.models.forward import classify, embed
from imae_jax.models.layers import Compute
from imae_jax.models.mae import MAE, Size
from imae_jax.models.transformer import DropPath, Transformer
from imae_jax.training.state import init_variables

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (4, 8, 8, 1))
UNSET = dict(width=None, depth=None, heads=None)


def make(mode="finetune", pools=("mean",), depth=2, drop_path=0.0, compute=None):
    return build_classifier(
        variant="mu/2",
        encoder=UNSET | {"depth": depth},
        mode=mode,
        pools=pools,
        image_shape=(8, 8, 1),
        num_classes=3,
        compute=compute or Compute(),
        drop_path=drop_path,
    )


def loud(params):
    """Heads that say something about their input."""
    return jax.tree.map(
        lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params
    )


def variables_of(network):
    params, batch_stats = init_variables(network, 0)
    return {"params": loud(params), "batch_stats": batch_stats}


@pytest.mark.parametrize(
    "mode,pools,modules",
    [
        ("linear", ("class_token", "mean"), {"head_class_token", "head_mean"}),
        ("finetune", ("mean",), {"fc_norm", "head_mean"}),
        ("scratch", ("class_token",), {"head_class_token"}),
    ],
)
def test_modules_and_initial_heads(mode, pools, modules):
    network = make(mode, pools)
    params, batch_stats = init_variables(network, 0)
    assert params.keys() == {"encoder"} | modules
    assert bool(batch_stats) == (mode == "linear")
    assert ("norm" in params["encoder"]["transformer"]) == (pools != ("mean",))
    std = 0.01 if mode == "linear" else 2e-5
    for pool in pools:
        head = params[f"head_{pool}"]
        assert head["kernel"].shape == (32, 3)
        assert float(head["kernel"].std()) == pytest.approx(std, rel=0.25)
        assert not head["bias"].any()
    logits = classify(network, variables_of(network), IMAGES)
    assert logits.keys() == set(pools)
    assert all(x.shape == (4, 3) and x.dtype == jnp.float32 for x in logits.values())


@pytest.mark.parametrize("mode,pool", [("linear", "class_token"), ("finetune", "mean")])
def test_every_patch_is_seen(mode, pool):
    network = make(mode, (pool,))
    variables = variables_of(network)

    def total(images):
        return classify(network, variables, images)[pool][0, 0]

    grad = np.abs(jax.grad(total)(IMAGES[:1]) if mode == "finetune" else changes(total))
    assert (grad.reshape(4, 2, 4, 2).max(axis=(1, 3)) > 0).all()


def changes(function):
    """What a change of each pixel does: a probe's encoder has no gradient."""
    moved = [IMAGES[:1] + 0.5 * jnp.eye(64)[i].reshape(1, 8, 8, 1) for i in range(64)]
    before = function(IMAGES[:1])
    return np.array([function(images) - before for images in moved])


def test_the_pools_are_of_the_tokens_they_should_be():
    probe = make("linear", ("class_token", "mean"))
    variables = variables_of(probe)
    # In training a BatchNorm takes the batch's own statistics.
    logits, _ = probe.apply(variables, IMAGES, is_training=True, mutable=["batch_stats"])
    mae = MAE(
        probe.encoder_size,
        Size(16, 1, 2),
        "self",
        probe.patch_size,
        probe.image_size,
        1,
        Compute(),
    )
    params = {"encoder": variables["params"]["encoder"]}
    features = embed(mae, params, IMAGES)
    for pool in probe.pools:
        x = features[pool]
        x = (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-6)
        head = variables["params"][f"head_{pool}"]
        expected = x @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits[pool], expected, rtol=1e-3, atol=1e-4)

    tuned = make("finetune", ("mean",))
    variables = variables_of(tuned)
    encoder = dict(variables["params"]["encoder"])
    encoder["transformer"] |= {"norm": dict(scale=jnp.ones(32), bias=jnp.zeros(32))}
    x = embed(mae, {"encoder": encoder}, IMAGES)["layers"][:, -1]
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    norm, head = (variables["params"][name] for name in ("fc_norm", "head_mean"))
    x = x * norm["scale"] + norm["bias"]
    found = classify(tuned, variables, IMAGES)["mean"]
    np.testing.assert_allclose(
        found, x @ head["kernel"] + head["bias"], rtol=1e-3, atol=1e-4
    )


def test_a_probe_gives_its_encoder_no_gradient():
    network = make("linear", ("class_token", "mean"))
    variables = variables_of(network)

    def loss(params):
        found = classify(network, variables | {"params": params}, IMAGES)
        return sum(jnp.square(x).sum() for x in found.values())

    grads = jax.grad(loss)(variables["params"])
    assert not any(x.any() for x in jax.tree.leaves(grads["encoder"]))
    assert all(x.any() for name in network.pools for x in grads[f"head_{name}"].values())


def test_drop_path_keeps_the_mean_and_drops_whole_examples():
    x = jnp.ones((20_000, 2, 3))
    found = DropPath(0.25).apply({}, x, rngs={"drop_path": KEY})
    assert np.unique(found).tolist() == pytest.approx([0, 4 / 3])
    assert (found == found[:, :1, :1]).all()
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(DropPath(0.25).apply({}, x), x)  # no key: no training
    half = DropPath(0.5).apply({}, x.astype(jnp.bfloat16), rngs={"drop_path": KEY})
    assert half.dtype == jnp.bfloat16


def test_without_drop_path_nothing_is_added():
    plain, dropping = make(), make(drop_path=0.5)
    variables = variables_of(plain)

    def program(network, rngs):
        def run(x):
            return network.apply(variables, x, is_training=True, rngs=rngs)

        return str(jax.make_jaxpr(run)(IMAGES))

    keys = {"drop_path": KEY}
    without = program(plain, {})
    assert program(plain, keys) == without == program(dropping, {})
    assert program(dropping, keys) != without


def test_rates_rise_from_zero_to_the_last_block():
    x = jax.random.normal(KEY, (4000, 3, 8))
    for depth, rates in ((1, [0]), (3, [0, 0.3, 0.6])):
        network = Transformer(depth, 2, Compute(), drop_path=0.6, final_norm=False)
        params = network.init(KEY, x[:1])
        # Blocks whose branches add 1, one block at a time.
        quiet = jax.tree.map(jnp.zeros_like, params)
        for layer, rate in enumerate(rates):
            own = jax.tree.map(jnp.copy, quiet)
            own["params"][f"block_{layer:02d}"]["mlp_out"]["bias"] += 1
            added = network.apply(own, x, rngs={"drop_path": KEY}) - x
            dropped = jnp.isclose(added, 0, atol=1e-5).all(axis=(1, 2)).mean()
            assert float(dropped) == pytest.approx(rate, abs=0.03), (depth, layer)


def test_recomputation_draws_the_same():
    plain, again = (
        make(drop_path=0.5, compute=Compute(remat=remat)) for remat in ("none", "blocks")
    )
    variables = variables_of(plain)

    def grads(network):
        def loss(params):
            given = variables | {"params": params}
            keys = {"drop_path": KEY}
            found = network.apply(given, IMAGES, is_training=True, rngs=keys)
            return jnp.square(found["mean"]).sum()

        return jax.grad(loss)(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        grads(plain),
        grads(again),
    )
