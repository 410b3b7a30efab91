"""Checksums and the search for values that are not finite, on the host and on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imae_jax.distributed import sharding
from imae_jax.storage import pytrees

TYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "uint8", "int8")


def random_array(seed, shape, dtype):
    """An array of random bits, with NaN and infinity among the floats."""
    dtype = jnp.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    bits = np.random.RandomState(seed).randint(256, size=size, dtype=np.uint8)
    return bits.view(dtype).reshape(shape)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(TYPES),
)
def test_host_and_device_agree(seed, shape, dtype):
    tree = {"x": jnp.asarray(random_array(seed, shape, dtype))}
    on_devices = jax.device_get(pytrees._checksums_on_devices(tree))
    assert pytrees.checksums(tree) == on_devices
    assert pytrees.is_finite(tree) == bool(pytrees.all_finite(tree))


def test_a_checksum_by_hand():
    x = jnp.asarray([[1, 2], [3, 2**32 - 1]], jnp.uint32)
    assert pytrees.checksums([x]) == [(1 + 2 * 3 + 3 * 5 - 7) % 2**32]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(value):
    x = np.zeros((3, 5), np.float32)
    assert pytrees.is_finite([x, jnp.asarray(x)])
    x[2, 1] = value
    assert not pytrees.is_finite([jnp.zeros(3), jnp.asarray(x)])


def test_sharding_does_not_matter_and_nothing_is_compiled():
    mesh = sharding.make_mesh(fsdp=8)
    x = np.arange(64, dtype=np.float32).reshape(16, 4)
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P(mesh.axis_names[-1])))
    assert not split.is_fully_replicated
    compiled = []

    def listen(name, *_, **__):
        compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert pytrees.is_finite(split)
        assert pytrees.checksums([split]) == pytrees.checksums([x])
        assert not compiled
        assert pytrees._checksums_on_devices([split]) == pytrees.checksums([x])
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
