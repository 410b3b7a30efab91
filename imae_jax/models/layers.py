"""Layers with dtypes and kernels chosen for each backend.

These choices are independent of the architecture: parameters are the same for all.
"""

import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

DTYPES = ("float32", "bfloat16")
AUTO = "auto"  # whichever of these is faster on the machine
ATTENTIONS = ("xla", "cudnn")
REMATS = ("none", "products", "blocks")
LAYER_NORM_EPSILON = 1e-6  # MAE

Saved = tuple[jax.Array, ...]  # by a forward pass, for the backward pass


class Compute(NamedTuple):
    """Choices that affect speed and memory, and results up to rounding only.

    Attributes:
      activations: dtype between layers. Parameters, softmax, LayerNorm statistics and
        losses are always float32.
      operands: dtype of the operands of matrix products; sums are float32.
      attention: "xla", or "cudnn" for cuDNN's flash attention.
      scan: True to run the blocks of a Transformer as a loop, compiled once.
      remat: values recomputed in the backward pass instead of stored: "none"; all but
        results of matrix products ("products"); whole blocks ("blocks").
    """

    activations: DTypeLike = jnp.float32
    operands: DTypeLike = jnp.float32
    attention: str = "xla"
    scan: bool = False
    remat: str = "none"


def choose(dtype: str, attention: str, scan: bool, remat: str, *, platform: str) -> Compute:
    """Returns the choices of a config's `compute` section on a platform.

    On accelerators bfloat16 applies to activations. On a CPU it applies to the operands of
    products only: XLA's fast bfloat16 kernels are for products with a float32 result, and
    nothing else is faster in bfloat16.

    Args:
      dtype, attention, scan, remat: values of the section. cuDNN's attention, of a run
        that was trained with it, is XLA's where cuDNN has none (training refuses that).
      platform: "cpu", "gpu" or "tpu".
    """
    dtype = fastest_type(platform) if dtype == AUTO else dtype
    activations = "float32" if platform == "cpu" else dtype
    if attention == "cudnn" and (platform, dtype) != ("gpu", "bfloat16"):
        attention = "xla"
    return Compute(jnp.dtype(activations), jnp.dtype(dtype), attention, scan, remat)


@functools.cache
def fastest_type(platform: str) -> str:
    """Returns the faster of `DTYPES` on a platform ("cpu", "gpu" or "tpu").

    bfloat16 on TPUs, and on NVIDIA GPUs of compute capability 8.0 or higher (older ones
    have no units for it). For a CPU its flags decide, or else a timing of a tenth of a
    second. Ours.
    """
    if platform == "cpu":
        return "bfloat16" if _cpu_is_faster_in_bfloat16(_cpu_flags()) else "float32"
    if platform == "tpu":
        return "bfloat16"
    capability = getattr(jax.devices()[0], "compute_capability", "")
    is_of_nvidia = capability.replace(".", "", 1).isdecimal()  # AMD's are like "gfx942"
    return "float32" if is_of_nvidia and float(capability) < 8 else "bfloat16"


def _cpu_flags() -> set[str]:
    """Returns the processor's flags on Linux; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    names = ("flags", "Features")  # x86; ARM
    return {flag for line in lines if line.startswith(names) for flag in line.split()[2:]}


def _cpu_is_faster_in_bfloat16(flags: set[str]) -> bool:
    if "sse2" in flags:  # x86, where the flags determine XLA's kernels
        return not flags.isdisjoint(("avx512_bf16", "amx_bf16"))
    if flags and "bf16" not in flags:
        return False
    seconds: dict[str, list[float]] = {}
    for dtype in DTYPES:
        matrix = jnp.ones((512, 512), dtype)
        product = jax.jit(
            functools.partial(_float32_sum, dimensions=(((1,), (0,)), ((), ())))
        )
        product(matrix, matrix).block_until_ready()
        seconds[dtype] = []
        for _ in range(3):
            start = time.perf_counter()
            product(matrix, matrix).block_until_ready()
            seconds[dtype].append(time.perf_counter() - start)
    return min(seconds["bfloat16"]) < min(seconds["float32"])


def dense(features: int, compute: Compute, name: str | None = None) -> nn.Dense:
    """Makes a linear layer with MAE's initialization: Xavier-uniform kernel, zero bias."""
    is_ours = compute.activations == jnp.float32
    return nn.Dense(
        features,
        dtype=compute.activations,
        kernel_init=nn.initializers.xavier_uniform(),
        dot_general=functools.partial(_dot_general, compute.operands) if is_ours else None,
        name=name,
    )


def _dot_general(
    operands: DTypeLike, x: jax.Array, kernel: jax.Array, dimension_numbers: tuple, **_: Any
) -> jax.Array:
    """Replaces `lax.dot_general` for a layer's product, x [..., I] by kernel [I, O]."""
    assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ())), dimension_numbers
    return float32_matmul(x, kernel, operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def float32_matmul(x: jax.Array, kernel: jax.Array, operands: DTypeLike) -> jax.Array:
    """Multiplies [..., I] by [I, O], with operands in `operands` and a float32 result.

    The gradient's two products are computed in the same way. (`lax.dot_general`'s gradient
    multiplies float32 by bfloat16, which on a CPU is a float32 product.)
    """
    return _matmul_forward(x, kernel, operands)[0]


def _matmul_forward(
    x: jax.Array, kernel: jax.Array, operands: DTypeLike
) -> tuple[jax.Array, Saved]:
    x, kernel = x.astype(operands), kernel.astype(operands)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return _float32_sum(x, kernel, dimensions), (x, kernel)


def _matmul_backward(operands: DTypeLike, saved: Saved, grad: jax.Array) -> Saved:
    x, kernel = saved
    grad = grad.astype(operands)
    last, batch = (x.ndim - 1,), tuple(range(x.ndim - 1))
    grad_x = _float32_sum(grad, kernel, ((last, (1,)), ((), ())))
    # bfloat16: contract all batch axes, since XLA has no fast CPU kernel for merged ones.
    # float32: contract merged axes, since otherwise XLA transposes `grad` first.
    if operands == jnp.float32:
        x, grad = (array.reshape(-1, array.shape[-1]) for array in (x, grad))
        batch = (0,)
    grad_kernel = _float32_sum(x, grad, ((batch, batch), ((), ())))
    return grad_x, grad_kernel


def _float32_sum(a: jax.Array, b: jax.Array, dimensions: tuple) -> jax.Array:
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


float32_matmul.defvjp(_matmul_forward, _matmul_backward)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU. (`jax.nn.gelu` uses erfc, which takes twice as long on a CPU.)"""
    return 0.5 * x * (1 + lax.erf(x * 0.5**0.5))


@jax.custom_vjp
def float32_layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """LayerNorm over the last axis of float32 [..., width], with MAE's epsilon.

    The hand-written gradient makes XLA read and write less memory than the automatic one.
    """
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, Saved]:
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True) - jnp.square(mean)
    inverse_std = lax.rsqrt(jnp.maximum(variance, 0) + LAYER_NORM_EPSILON)
    return (x - mean) * (inverse_std * scale) + bias, (x, mean, inverse_std, scale)


def _layer_norm_backward(saved: Saved, grad: jax.Array) -> Saved:
    x, mean, inverse_std, scale = saved
    normalized = (x - mean) * inverse_std
    batch = tuple(range(x.ndim - 1))
    grad_scale, grad_bias = (grad * normalized).sum(axis=batch), grad.sum(axis=batch)
    grad = grad * scale
    along = (grad * normalized).mean(axis=-1, keepdims=True)
    grad_x = inverse_std * (grad - grad.mean(axis=-1, keepdims=True) - normalized * along)
    return grad_x, grad_scale, grad_bias


float32_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, compute: Compute
) -> jax.Array:
    """Softmax attention; query and result are [N, T, heads, width / heads].

    Key and value are [N, T', heads, width / heads]; T' may differ from T.
    Uses `float32_attention` for float32 activations, since it is faster than JAX's on a
    CPU; otherwise JAX's.
    """
    if compute.activations == jnp.float32 and compute.attention == "xla":
        heads_first = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        return jnp.swapaxes(float32_attention(*heads_first, compute.operands), 1, 2)
    implementation: Any = compute.attention  # one of `ATTENTIONS`
    return jax.nn.dot_product_attention(query, key, value, implementation=implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def float32_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, operands: DTypeLike
) -> jax.Array:
    """Softmax attention over axis -2 of [N, heads, T, width / heads] float32 arrays.

    Key and value may have another T than the query.
    Products have operands in `operands` and float32 sums. The hand-written gradient does
    the same, and stores the weights, the largest array, in that dtype.
    """
    return _attention_forward(query, key, value, operands)[0]


def _attention_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, operands: DTypeLike
) -> tuple[jax.Array, Saved]:
    query = (query * query.shape[-1] ** -0.5).astype(operands)
    key, value = key.astype(operands), value.astype(operands)
    weights = jax.nn.softmax(_float32_einsum("nhtd,nhsd->nhts", query, key))
    weights = weights.astype(operands)
    out = _float32_einsum("nhts,nhsd->nhtd", weights, value)
    return out, (query, key, value, weights, out)


def _attention_backward(operands: DTypeLike, saved: Saved, grad: jax.Array) -> Saved:
    query, key, value, weights, out = saved
    mean = (grad * out).sum(axis=-1, keepdims=True)  # of grad_weights, by weights
    grad = grad.astype(operands)
    grad_weights = _float32_einsum("nhtd,nhsd->nhts", grad, value)
    grad_logits = (weights * (grad_weights - mean)).astype(operands)
    grad_query = _float32_einsum("nhts,nhsd->nhtd", grad_logits, key)
    grad_query *= query.shape[-1] ** -0.5
    grad_key = _float32_einsum("nhst,nhtd->nhsd", _transposed(grad_logits), query)
    grad_value = _float32_einsum("nhst,nhtd->nhsd", _transposed(weights), grad)
    return grad_query, grad_key, grad_value


def _transposed(x: jax.Array) -> jax.Array:
    # A copy in memory: XLA's products over the second-to-last axis are slower than copying.
    return lax.optimization_barrier(jnp.swapaxes(x, -1, -2))


def _float32_einsum(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


float32_attention.defvjp(_attention_forward, _attention_backward)
