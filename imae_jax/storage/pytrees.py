"""Pytree utilities: named leaves, structural diffs, digests."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from imae_jax.errors import UserError


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to {"a.b.c": value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def tree_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by path, such as `params/encoder/class_token`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def nested(flat: Mapping[str, Any]) -> dict:
    """Inverse of `tree_leaves` for trees of mappings.

    Raises:
      ValueError: if one path leads through another's leaf.
    """
    tree: dict = {}
    for name, value in flat.items():
        *folders, leaf = name.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
            if not isinstance(here, dict):
                raise ValueError(f"{folder} of {name} is a leaf, too")
        if leaf in here:
            raise ValueError(f"{name} holds other leaves, too")
        here[leaf] = value
    return tree


def tree_differences(expected: Any, found: Any) -> list[str]:
    """Lists leaves that are missing, unexpected, or of a different shape or type."""
    expected, found = tree_leaves(expected), tree_leaves(found)
    lines = [f"missing {name}" for name in expected.keys() - found.keys()]
    lines += [f"unexpected {name}" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        forms = [
            f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
            for leaf in (found[name], expected[name])
        ]
        if forms[0] != forms[1]:
            lines.append(f"{name} is {forms[0]}, should be {forms[1]}")
    return sorted(lines)


def check_same_tree(expected: Any, found: Any, what: str) -> None:
    """Raises UserError if shapes, types or names of the leaves differ."""
    lines = tree_differences(expected, found)
    if lines:
        shown = "; ".join(lines[:8])
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise UserError(f"{what} does not fit the model: {shown}{more}")


def digest(params: Any) -> str:
    """SHA-256 of all parameters: names, types, shapes and values."""
    sha = hashlib.sha256()
    for name, leaf in sorted(tree_leaves(params).items()):
        leaf = np.asarray(leaf)
        sha.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """The same as `is_finite`, within a compiled program: a bool scalar."""
    bad = [jnp.sum(~jnp.isfinite(x), dtype=jnp.float32) for x in jax.tree.leaves(tree)]
    # The root is there for the compiler. XLA repeats cheap operations in each of their
    # users; a selection for each array would hold all these sums. Of roots there is one.
    return jnp.sqrt(sum(bad, start=jnp.float32(0))) == 0


def _in_host_memory(tree: Any) -> bool:
    """True if NumPy can read all arrays where they are.

    Nothing need be compiled for them, which takes seconds for a network's many arrays.
    """
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    devices = {device for x in leaves for device in x.devices()}
    is_cpu = {device.platform for device in devices} <= {"cpu"}
    return is_cpu and all(x.is_fully_addressable for x in leaves)


def is_finite(tree: Any) -> bool:
    """True if no value of a pytree of arrays is NaN or infinite."""
    if _in_host_memory(tree):
        return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
    return bool(all_finite(tree))


def checksums(tree: Any) -> Any:
    """Computes a uint32 for each leaf of a pytree of arrays of up to 32 bits.

    The sum, modulo 2**32, of each value's bits times an odd number that depends on its
    position: changing one value always changes the sum, other changes almost always do.
    The sum does not depend on sharding and needs no gathering.
    """
    if _in_host_memory(tree):
        return jax.tree.map(_checksum_by_numpy, tree)
    return _checksums_on_devices(tree)


def _checksum_by_numpy(x: Any) -> np.uint32:
    values = np.ascontiguousarray(x)
    bits = values.view(f"uint{8 * values.itemsize}").ravel().astype(np.uint32)
    place = np.arange(bits.size, dtype=np.uint32)
    return np.sum(bits * (2 * place + 1), dtype=np.uint32)


@jax.jit
def _checksums_on_devices(tree: Any) -> Any:
    return jax.tree.map(_checksum, tree)


def _checksum(x: jax.Array) -> jax.Array:
    bits = lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        stride = math.prod(x.shape[axis + 1 :]) % 2**32
        place += lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
    return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)
