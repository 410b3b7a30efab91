import functools
import time
import types

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import imae, mae
from imae_jax import optim
from imae_jax.distributed import sharding
from imae_jax.models import layers
from imae_jax.models.factory import build_autoencoder
from imae_jax.models.forward import embed, forward
from imae_jax.models.layers import (
    Compute,
    float32_attention,
    float32_layer_norm,
    float32_matmul,
)
from imae_jax.models.masking import random_mask
from imae_jax.objectives.base import Augmentation
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.training.state import init_params, init_state
from imae_jax.training.step import make_train_step

SIZE = dict(width=32, depth=3, heads=2)
KEY = jax.random.key(0)
BFLOAT16_ON = {
    platform: layers.choose("bfloat16", "xla", False, "none", platform=platform)
    for platform in ("cpu", "gpu", "tpu")
}


def make(name, form, variant="mu/2", size=SIZE, image_shape=(8, 8, 1), attention="self"):
    return build_autoencoder(
        name=name,
        variant=variant,
        encoder=size,
        decoder=size | dict(attention=attention),
        image_shape=image_shape,
        compute=form,
    )


def rounded(x, dtype):
    return np.asarray(jnp.asarray(x).astype(dtype), np.float64)


@given(
    st.sampled_from(layers.DTYPES),
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_products_and_their_gradients_are_those_of_rounded_operands(
    dtype, batch, rows, columns
):
    random = np.random.default_rng(0)
    x, kernel, grad = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((*batch, rows), (rows, columns), (*batch, columns))
    )
    matmul = functools.partial(float32_matmul, operands=jnp.dtype(dtype))
    found, pull_back = jax.vjp(matmul, x, kernel)
    grad_x, grad_kernel = pull_back(grad)
    x, kernel, grad = (rounded(array, dtype) for array in (x, kernel, grad))
    np.testing.assert_allclose(found, x @ kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grad_x, grad @ kernel.T, rtol=1e-4, atol=1e-5)
    expected = x.reshape(-1, rows).T @ grad.reshape(-1, columns)
    np.testing.assert_allclose(grad_kernel, expected, rtol=1e-4, atol=1e-5)
    assert {a.dtype.name for a in (found, grad_x, grad_kernel)} == {"float32"}


def products(function, *arguments):
    """(types of the operands, type of the result) of every product in a function."""
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                types = [v.aval.dtype.name for v in (*equation.invars, *equation.outvars)]
                found.append(tuple(types))
            for inner in jax.tree.leaves(list(equation.params.values())):
                if isinstance(inner, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)):
                    visit(inner)

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


@pytest.mark.parametrize("platform", BFLOAT16_ON)
def test_every_layer_multiplies_bfloat16_forwards_and_backwards(platform):
    network = make("imae", BFLOAT16_ON[platform])
    params = init_params(network, 0)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    images, mask = jnp.ones((2, 8, 8, 1)), random_mask(KEY, 2, 16, 0.5)

    def loss(params):
        return forward(network, params, images, mask)["pred"].sum()

    of_layers = 2 * 3 * 4 + 4  # two transformers of three blocks; embed, two heads, pred
    found = products(jax.grad(loss), params)
    in_bfloat16 = [types for types in found if types[:2] == ("bfloat16", "bfloat16")]
    if platform == "cpu":
        assert found == [("bfloat16", "bfloat16", "float32")] * len(found)
        assert len(found) == 3 * of_layers + 2 * 3 * (2 + 4)  # and attention's
    else:
        # The gradient of the pixels is not asked for; attention is bfloat16 too.
        assert len(in_bfloat16) >= 3 * of_layers - 1 + 2 * 3 * 2


@pytest.mark.slow
@pytest.mark.parametrize("platform", BFLOAT16_ON)
@pytest.mark.parametrize(
    ("name", "attention"), [("mae", "self"), ("imae", "self"), ("imae", "cross")]
)
def test_bfloat16_is_close_to_float32_and_outputs_are_float32(name, attention, platform):
    exact = make(name, Compute(), attention=attention)
    params = init_params(exact, 0)
    images, mask = jax.random.normal(KEY, (4, 8, 8, 1)), random_mask(KEY, 4, 16, 0.5)
    expected = forward(exact, params, images, mask)
    rough = make(name, BFLOAT16_ON[platform], attention=attention)
    found = forward(rough, params, images, mask)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == jnp.float32
        error = np.abs(value - expected[key]).max() / np.abs(expected[key]).max()
        assert 0 < error < 0.03, key


@pytest.mark.parametrize(("operands", "error"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("num_queries", [5, 3])
def test_attention_is_the_librarys_with_its_gradient(num_queries, operands, error):
    query, key, value = jax.random.normal(KEY, (3, 2, 5, 4, 8))  # [N, T, heads, width]
    arguments = query[:, :num_queries], key, value

    def with_gradient(attention):
        return jax.value_and_grad(lambda qkv: jnp.sin(attention(*qkv)).sum())(arguments)

    expected = with_gradient(jax.nn.dot_product_attention)
    form = Compute(operands=jnp.dtype(operands))
    found = with_gradient(lambda *qkv: layers.attention(*qkv, form))
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.abs(ours - theirs).max() < error * np.abs(theirs).max()
    in_products = products(
        jax.grad(lambda qkv: layers.attention(*qkv, form).sum()), arguments
    )
    assert len(in_products) == 6
    assert {kind for product in in_products for kind in product[:2]} == {operands}


def test_gelu_is_the_librarys_exact_one():
    x = jnp.linspace(-9, 9, 1001)
    expected = jax.vmap(
        jax.value_and_grad(functools.partial(jax.nn.gelu, approximate=False))
    )(x)
    found = jax.vmap(jax.value_and_grad(layers.gelu))(x)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@given(st.lists(st.integers(1, 5), max_size=3), st.integers(2, 9), st.floats(-9, 9))
def test_layer_norm_is_the_librarys_with_its_gradient(batch, width, offset):
    random = np.random.default_rng(0)
    x, weights = random.normal(size=(2, *batch, width)).astype(np.float32)
    x += np.float32(offset)
    params = {name: random.normal(size=width) for name in ("scale", "bias")}
    params = {name: value.astype(np.float32) for name, value in params.items()}

    def with_gradient(norm):
        return jax.value_and_grad(lambda *inputs: (weights * norm(*inputs)).sum(), (0, 1))

    library = nn.LayerNorm(epsilon=layers.LAYER_NORM_EPSILON)
    expected = with_gradient(lambda x, p: library.apply({"params": p}, x))(x, params)
    found = with_gradient(lambda x, p: float32_layer_norm(x, **p))(x, params)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        scale = 1 + np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=3e-4)


FLAGS = {
    "fpu sse2 avx2": False,
    "fpu sse2 avx512f avx512_vnni": False,
    "fpu sse2 avx512f avx512_bf16": True,
    "fpu sse2 avx512_bf16 amx_bf16 amx_tile": True,
    "fp asimd": False,  # ARM without bf16 units
}


@pytest.mark.parametrize("flags", FLAGS)
def test_a_processors_flags_tell_its_type(flags, monkeypatch):
    monkeypatch.setattr(layers, "_float32_sum", None)  # nothing is measured
    assert layers._cpu_is_faster_in_bfloat16(set(flags.split())) == FLAGS[flags]


@pytest.mark.parametrize("flags", ["", "fp asimd bf16 i8mm"])
def test_where_no_flag_tells_products_are_timed(flags):
    start = time.perf_counter()
    assert layers._cpu_is_faster_in_bfloat16(set(flags.split())) in (True, False)
    assert time.perf_counter() - start < 5  # far less, compiling and other jobs aside


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("7.5", "float32"), ("8.0", "bfloat16"), ("10.0", "bfloat16"), ("gfx942", "bfloat16")],
)
def test_old_gpus_compute_in_float32(capability, expected, monkeypatch):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert layers.fastest_type.__wrapped__("gpu") == expected
    assert layers.fastest_type.__wrapped__("tpu") == "bfloat16"


def test_attention_of_equal_keys_is_the_mean_of_the_values():
    value = jax.random.normal(KEY, (2, 3, 5, 4))
    found = float32_attention(value, jnp.ones_like(value), value, jnp.float32)
    mean = jnp.broadcast_to(value.mean(axis=2, keepdims=True), value.shape)
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scan", "remat", "attention"),
    [
        (True, "none", "self"),
        *((s, r, "self") for s in (False, True) for r in layers.REMATS[1:]),
        (True, "none", "cross"),
        (True, "products", "cross"),
        (False, "blocks", "cross"),
    ],
)
def test_scan_and_remat_equal_the_plain_loop(scan, remat, attention):
    images, mask = jax.random.normal(KEY, (2, 8, 8, 1)), random_mask(KEY, 2, 16, 0.5)
    plain, other = (
        make("imae", form, attention=attention)
        for form in (Compute(), Compute(scan=scan, remat=remat))
    )
    params = init_params(plain, 0)
    jax.tree.map(np.testing.assert_array_equal, params, init_params(other, 0))

    def with_gradient(network):
        def loss(params):
            out = forward(network, params, images, mask)
            return jnp.square(out["pred"]).mean() + jnp.square(out["latents"]).mean()

        return jax.value_and_grad(loss)

    expected, found = (with_gradient(network)(params) for network in (plain, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-5), found, expected)
    text = str(jax.make_jaxpr(with_gradient(other))(params))
    assert ("scan[" in text) == scan
    assert ("remat" in text or "checkpoint" in text) == (remat != "none")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5),
        embed(other, params, images),
        embed(plain, params, images),
    )


def test_scan_computes_a_block_once():
    """In the program's text; all blocks in a loop, whatever the depth."""
    counts = []
    for scan in (False, True):
        network = make("mae", Compute(scan=scan))
        mask = random_mask(KEY, 2, 16, 0.5)
        params = init_params(network, 0)
        arguments = params, jnp.ones((2, 8, 8, 1)), mask
        counts.append(len(products(functools.partial(forward, network), *arguments)))
    assert counts == [2 * 3 * 6 + 3, 2 * 6 + 3]


@pytest.mark.slow
def test_remat_keeps_less_memory():
    mask = random_mask(KEY, 64, 16, 0.5)
    found = []
    for remat in layers.REMATS:
        network = make("mae", Compute(remat=remat, scan=True))
        params = init_params(network, 0)

        def loss(params, network=network):
            out = forward(network, params, jnp.ones((64, 8, 8, 1)), mask)
            return out["pred"].sum()

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        found.append(compiled.memory_analysis().temp_size_in_bytes)
    assert found[0] > found[1] > found[2]


@pytest.mark.slow
@pytest.mark.parametrize("configs", [mae, imae])
def test_bfloat16_trains_as_float32_does(configs):
    """The CIFAR preset's recipe on smooth pictures, a smaller network, fewer patches."""
    config = configs.get_config("cifar10")
    random = np.random.default_rng(0)
    corners = random.integers(0, 256, (64, 2, 2, 3))
    pictures = jax.image.resize(corners.astype(np.float32), (64, 16, 16, 3), "linear")
    pictures = np.asarray(pictures.clip(0, 255), np.uint8)
    curves = {}
    for dtype in layers.DTYPES:
        form = layers.choose(dtype, "xla", False, "none", platform="cpu")
        size = dict(width=32, depth=2, heads=2)
        networks = {
            name: make(name, form, "mu/4", size, (16, 16, 3)) for name in ("mae", "imae")
        }
        teacher = init_params(networks["mae"], 1)
        kind = config.model.name
        augmentation = Augmentation(mean=127.0, std=64.0, **config.augment)
        objective = OBJECTIVES[kind].from_config(
            config, networks[kind], networks["mae"], augmentation
        )
        mesh = sharding.make_mesh(jax.devices()[:1])
        schedule = optim.learning_rate(2e-2, 32, 20, 200)
        update = optim.adamw(schedule, config.optim.betas, config.optim.weight_decay)
        state = init_state(networks[config.model.name], update, 0, mesh)
        step = make_train_step(
            objective, update, mesh, lambda images, _: images, state, max_skipped=1
        )
        curve = []
        for number in range(200):
            batch = pictures[(np.arange(16) + 16 * number) % 64]
            state, metrics = step(state, teacher, batch, 1)
            curve.append(metrics["loss/total"])
        curves[dtype] = np.array(curve)
    expected, found = (
        curves[dtype].reshape(20, 10).mean(axis=1) for dtype in ("float32", "bfloat16")
    )
    assert expected[-1] < 0.75 * expected[0]  # there was something to learn
    assert 0 < np.abs(found / expected - 1).max() < 0.03


@pytest.mark.parametrize(
    "dtype,platform,attention",
    [("bfloat16", "gpu", "cudnn"), ("float32", "gpu", "xla"), ("bfloat16", "cpu", "xla")],
)
def test_cudnns_attention_is_left_where_it_is_not(dtype, platform, attention):
    form = layers.choose(dtype, "cudnn", False, "none", platform=platform)
    assert form.attention == attention
