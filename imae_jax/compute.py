"""How a model is computed: types, products and attention in the form each backend likes.

None of this is architecture: the same parameters serve every choice.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("xla", "cudnn")
REMATS = ("none", "products", "blocks")


class Compute(NamedTuple):
    """Choices that change speed and memory, and results by rounding only.

    Attributes:
      activations: type of what passes between layers. Parameters, softmax, LayerNorm
        statistics and losses are float32 always.
      operands: type of what enters a matrix product; its sums are float32.
      attention: "xla", or "cudnn" for the flash attention of NVIDIA's library.
      scan: whether the blocks of a Transformer are a loop on the device, compiled once.
      remat: what the backward pass computes again instead of keeping it: "none"; all but
        the matrix products' results ("products"); whole blocks ("blocks").
    """

    activations: DTypeLike = jnp.float32
    operands: DTypeLike = jnp.float32
    attention: str = "xla"
    scan: bool = False
    remat: str = "none"


def choose(dtype: str, attention: str, scan: bool, remat: str, *, platform: str) -> Compute:
    """What a config's `compute` section means on a platform ("cpu", "gpu", "tpu").

    bfloat16 is stored as such on accelerators. On a CPU only the operands of products are:
    XLA calls its fast bfloat16 kernels for products with a float32 result, and the rest
    is no faster in bfloat16.
    """
    activations = "float32" if platform == "cpu" else dtype
    return Compute(jnp.dtype(activations), jnp.dtype(dtype), attention, scan, remat)


def dense(features: int, compute: Compute, name: str | None = None) -> nn.Dense:
    """A linear layer as MAE initialises it: Xavier-uniform kernel, zero bias."""
    is_mixed = compute.operands != compute.activations
    return nn.Dense(
        features,
        dtype=compute.activations,
        kernel_init=nn.initializers.xavier_uniform(),
        dot_general=_bfloat16_dot_general if is_mixed else None,
        name=name,
    )


def _bfloat16_dot_general(x, kernel, dimension_numbers, **_):
    """`lax.dot_general` for a layer's product, x [..., I] by kernel [I, O]."""
    assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ())), dimension_numbers
    return bfloat16_matmul(x, kernel)


@jax.custom_vjp
def bfloat16_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., I] x [I, O] -> [..., O], operands rounded to bfloat16, result float32.

    The gradient's two products are computed in the same way. (That of `lax.dot_general`
    would multiply float32 by bfloat16, which on a CPU is a float32 product.)
    """
    return _matmul_forward(x, kernel)[0]


def _matmul_forward(x, kernel):
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return _float32_sum(x, kernel, dimensions), (x, kernel)


def _matmul_backward(saved, grad):
    x, kernel = saved
    grad = grad.astype(jnp.bfloat16)
    last, batch = (x.ndim - 1,), tuple(range(x.ndim - 1))
    grad_x = _float32_sum(grad, kernel, ((last, (1,)), ((), ())))
    # Over all batch axes at once: with them merged XLA has no fast kernel on a CPU.
    grad_kernel = _float32_sum(x, grad, ((batch, batch), ((), ())))
    return grad_x, grad_kernel


def _float32_sum(a, b, dimensions):
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


bfloat16_matmul.defvjp(_matmul_forward, _matmul_backward)


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, compute: Compute
) -> jax.Array:
    """Softmax attention; all arguments and the result are [N, T, heads, width / heads].

    In float32 as `float32_attention`, which is faster than the library's on a CPU (and
    on which its bfloat16 form is slower than either); otherwise the library's.
    """
    if compute.activations == jnp.float32 and compute.attention == "xla":
        heads_first = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        return jnp.swapaxes(float32_attention(*heads_first), 1, 2)
    implementation = compute.attention
    return jax.nn.dot_product_attention(query, key, value, implementation=implementation)


@jax.custom_vjp
def float32_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Softmax attention over axis -2 of [N, heads, T, width / heads] arrays.

    With its gradient written out, so that each product is one that XLA fuses with the
    softmax's steps on a CPU.
    """
    return _attention_forward(query, key, value)[0]


def _attention_forward(query, key, value):
    logits = jnp.einsum("nhtd,nhsd->nhts", query, key) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum("nhts,nhsd->nhtd", weights, value), (query, key, value, weights)


def _attention_backward(saved, grad):
    query, key, value, weights = saved
    grad_weights = jnp.einsum("nhtd,nhsd->nhts", grad, value)
    mean = (weights * grad_weights).sum(axis=-1, keepdims=True)
    grad_logits = weights * (grad_weights - mean) * query.shape[-1] ** -0.5
    # Transposed before the products, not by them.
    weights, grad_logits_t = (jnp.swapaxes(x, 2, 3) for x in (weights, grad_logits))
    grad_query = jnp.einsum("nhts,nhsd->nhtd", grad_logits, key)
    grad_key = jnp.einsum("nhst,nhtd->nhsd", grad_logits_t, query)
    grad_value = jnp.einsum("nhst,nhtd->nhsd", weights, grad)
    return grad_query, grad_key, grad_value


float32_attention.defvjp(_attention_forward, _attention_backward)
