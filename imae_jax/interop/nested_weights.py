"""Finds a model's arrays in the nests, and under the prefixes, of training libraries."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from imae_jax.errors import UserError

# Name of the patch embedding in each family of names: MAE, Hugging Face, big_vision.
# Whatever precedes it in a file precedes the names of all arrays of that model.
MARKS = (
    "patch_embed.proj.weight",
    "vit.embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embedding.kernel",
)
# Parts of a name that wrappers put anywhere in it: DDP, torch.compile, FSDP, activation
# checkpointing, DeepSpeed.
WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
}
# Keys of an optimizer's state, whose arrays are named as the weights are.
OPTIMIZERS = {
    f"{name}{ending}"
    for name in ("opt", "optim", "optimizer")
    for ending in ("", "s", "_state", "_states", "_state_dict")
}
MAX_NESTING = 16


class Weights(NamedTuple):
    """Arrays of a model.

    Attributes:
      arrays: by name, without what precedes all of them.
      note: a line on what was left out of names and arrays; empty if nothing.
    """

    arrays: dict[str, Any]
    note: str


def flatten(nest: Any) -> dict[str, Any]:
    """Returns the arrays in nested mappings by dotted path, each mapping once.

    Raises:
      UserError: if two arrays have one path.
    """
    flat: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, Mapping):
            # A file may hold one mapping in many places, even in itself.
            if id(value) not in seen and len(path) < MAX_NESTING:
                seen.add(id(value))
                for key, item in value.items():
                    visit(item, (*path, str(key)))
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            name = ".".join(path)
            if name in flat:
                raise UserError(f"two arrays have the name {name}")
            flat[name] = value

    visit(nest, ())
    return flat


def find(flat: Mapping[str, Any]) -> Weights:
    """Finds the one Vision Transformer among arrays and strips what precedes its names.

    Args:
      flat: arrays by dotted name, see `flatten`.
    Returns:
      Its arrays; all as they are if no name is known.
    Raises:
      UserError: if there are several, naming them.
    """
    names = {name: _without_wrappers(name) for name in flat if not _is_of_optimizer(name)}
    for mark in MARKS:
        ends = [x.removesuffix(mark) for x in names.values() if x.endswith(mark)]
        prefixes = [prefix for prefix in ends if not prefix or prefix.endswith(".")]
        if prefixes:
            break
    else:
        return Weights(dict(flat), "")
    if len(prefixes) > 1:
        where = ", ".join(sorted(x.strip(".") or "(no key)" for x in prefixes))
        raise UserError(
            f"it holds the weights of {len(prefixes)} models, at {where}: which one is "
            "meant is not clear; save the mapping of one of them as a file of its own"
        )
    (prefix,) = prefixes
    arrays = {}
    for name, short in names.items():
        if short.startswith(prefix):
            arrays[short.removeprefix(prefix)] = flat[name]
    count = sum(short.startswith(prefix) for short in names.values())
    if count != len(arrays):
        raise UserError("it holds weights with and without the wrappers' part of a name")
    return Weights(arrays, _note(flat, names, prefix, mark))


def _note(flat: Mapping[str, Any], names: Mapping[str, str], prefix: str, mark: str) -> str:
    (whole,) = [x for x in names if names[x] == prefix + mark]
    before = whole.removesuffix(mark).strip(".") or next(
        (x for x in names if names[x] != x), ""
    )
    others = {
        ".".join(name.split(".")[:2])
        for name in flat
        if name not in names or not names[name].startswith(prefix)
    }
    lines = [f"its weights stand under {before!r}"] if before else []
    if others:
        more = ", ..." if len(others) > 4 else ""
        lines.append(f"not used: {', '.join(sorted(others)[:4])}{more}")
    return "; ".join(lines)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _is_of_optimizer(name: str) -> bool:
    return not OPTIMIZERS.isdisjoint(name.split("."))
