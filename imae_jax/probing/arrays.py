"""Checks and conversions of arrays and numbers given by users.

Arrays may be from NumPy, JAX or PyTorch (with gradient, on a GPU, bfloat16), or lists of
arrays or pictures. Invalid input raises a UserError that starts with the argument's name.
PyTorch is not imported: its tensors are recognized by their methods.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from imae_jax.errors import UserError, one_line

# Range of the largest magnitude of features: squares and their sums neither overflow nor
# underflow in float32.
SMALLEST, LARGEST = 1e-15, 1e15

# A feature is constant if it deviates from its mean by less than this fraction of its size
# (float64 rounds at 1e-16).
ROUNDING = 1e-13

# Pillow modes whose values are grey levels or RGB, not palette indices, opacity or other
# colour spaces.
PLAIN_MODES = ("1", "L", "I", "I;16", "F", "RGB")


def as_text(array: np.ndarray) -> str:
    """Describes type and shape, such as "float64 [3, 4]"."""
    return f"{array.dtype} {list(array.shape)}"


def as_array(given: Any, name: str) -> np.ndarray:
    """Converts numbers or labels in any container to a NumPy array.

    Args:
      given: an array, a tensor, a picture, numbers, or a list of these; arrays and
        pictures in a list must have one shape and type.
      name: argument's name, for messages.
    Raises:
      UserError: if it is none of these.
    """
    if isinstance(given, list | tuple) and any(map(_is_array, given)):
        parts = [as_array(part, f"{name}[{i}]") for i, part in enumerate(given)]
        kinds = sorted({as_text(part) for part in parts})
        if len(kinds) > 1:
            raise UserError(
                f"{name} is a list of different arrays, such as {kinds[0]} and {kinds[1]}; "
                "they must be of one shape and type"
            )
        return np.stack(parts)
    if isinstance(given, Image.Image):
        return _as_pixels(given, name)
    if np.ma.is_masked(given):
        raise UserError(f"{name} has masked values; it must be without")
    try:
        if _is_tensor(given):
            given = given.detach().cpu()
            if given.is_floating_point() and given.element_size() < 4:
                given = given.float()  # NumPy has no bfloat16
            return given.numpy()
        return np.asarray(given)
    # Libraries raise different errors for ragged lists, sparse or deleted arrays.
    except Exception as error:
        reason = one_line(error)[:120]
        raise UserError(f"{name} cannot be read as an array: {reason}") from error


def _is_tensor(given: Any) -> bool:
    return hasattr(given, "detach") and hasattr(given, "cpu")


def _is_array(given: Any) -> bool:
    return (
        hasattr(given, "__array__") or _is_tensor(given) or isinstance(given, Image.Image)
    )


def _as_pixels(picture: Image.Image, name: str) -> np.ndarray:
    """Returns a picture's pixels, [H, W, C]; C is 1 for grey."""
    if picture.mode not in PLAIN_MODES:
        raise UserError(
            f"{name} is a picture of mode {picture.mode!r}; it must be grey or RGB: "
            'picture.convert("RGB")'
        )
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def as_numbers(given: Any, name: str) -> np.ndarray:
    """Returns a non-empty NumPy array of finite real numbers."""
    array = as_array(given, name)
    if array.dtype.kind == "V" and jnp.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)  # JAX's bfloat16 and smaller types
    elif array.dtype.kind == "V" and jnp.issubdtype(array.dtype, np.integer):
        array = array.astype(np.int32)  # int4
    if array.dtype.kind not in "buif":
        hint = " (rows of one length?)" if array.dtype.kind == "O" else ""
        raise UserError(f"{name} is {as_text(array)}; it must hold real numbers{hint}")
    if not array.size:
        raise UserError(f"{name} is {as_text(array)}; it must not be empty")
    if not np.isfinite([array.min(), array.max()]).all():
        place = np.argwhere(~np.isfinite(array))[0].tolist()
        raise UserError(f"{name} is not finite (NaN or inf), first at {place}")
    return array


def as_features(given: Any, name: str, axes: Sequence[str] = ("N", "D")) -> np.ndarray:
    """Returns finite float32 or float64 numbers with the named axes."""
    array = as_numbers(given, name)
    if array.ndim != len(axes):
        hint = "; pool tokens, or take them as rows" if array.ndim == 3 else ""
        raise UserError(f"{name} is {as_text(array)}; it must be [{', '.join(axes)}]{hint}")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    elif array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    size = max(abs(float(array.min())), abs(float(array.max())))
    if size and not SMALLEST <= size <= LARGEST:
        raise UserError(
            f"{name} holds values up to {size:g} in size; the largest must lie between "
            f"{SMALLEST:g} and {LARGEST:g}: scale them"
        )
    return array


def as_images(given: Any, name: str) -> np.ndarray:
    """Returns finite numbers [N, H, W, C], in the type that was given."""
    array = as_numbers(given, name)
    if array.ndim != 4:
        hint = ": images[..., None], if they are grey" if array.ndim == 3 else ""
        raise UserError(f"{name} is {as_text(array)}; it must be [N, H, W, C]{hint}")
    limit = np.finfo(np.float32).max
    if array.min() < -limit or array.max() > limit:
        raise UserError(f"{name} holds values that float32 cannot hold; scale them")
    return array


def as_pixels(given: Any, name: str) -> np.ndarray:
    """Returns images [N, H, W, C] in 0..255, checked for floats in 0..1."""
    array = as_images(given, name)
    least, most = array.min(), array.max()
    if least < 0 or most > 255 or (array.dtype.kind == "f" and 0 < most <= 1):
        raise UserError(
            f"{name} holds values from {least:.3g} to {most:.3g}; they must be in 0..255"
        )
    return array


def check_columns(array: np.ndarray, name: str, like: np.ndarray, others: str) -> None:
    """Raises UserError unless both have the same number of columns."""
    if array.shape[1] != like.shape[1]:
        raise UserError(
            f"{name} is {as_text(array)}; it must have {like.shape[1]} columns, as {others}"
        )


def check_rows(array: np.ndarray, name: str, like: np.ndarray, others: str) -> None:
    """Raises UserError unless both have the same number of rows."""
    if len(array) != len(like):
        raise UserError(
            f"{name} is {as_text(array)}; it must have {len(like)} rows, as {others}"
        )


def _impossible(given: Any, name: str, allowed: str) -> UserError:
    value = " ".join(repr(given).split())
    value = value if len(value) <= 60 else f"{value[:57]}..."
    return UserError(f"invalid {name}={value}: must be {allowed}")


def as_count(given: Any, name: str, least: int, most: int | None = None) -> int:
    """Returns a whole number in least .. most."""
    try:
        if isinstance(given, bool | np.bool_):
            raise TypeError
        found = operator.index(given)
        if found < least or most is not None and found > most:
            raise ValueError
    except (TypeError, ValueError, RuntimeError):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise _impossible(given, name, f"a whole number {limit}") from None
    return found


def as_number(
    given: Any, name: str, allowed: str, is_possible: Callable[[float], bool]
) -> float:
    """Returns a float for which `is_possible` holds."""
    try:
        if isinstance(given, bool | np.bool_ | str | bytes):
            raise TypeError
        found = float(given)
        if not is_possible(found):
            raise ValueError
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _impossible(given, name, allowed) from None
    return found


def as_strengths(given: Any, name: str, *, zero: bool = False) -> list[float]:
    """Returns one or more finite numbers above 0, or, with `zero`, at least 0."""
    allowed = f"one or more numbers {'of at least' if zero else 'above'} 0"
    try:
        values = list(given)
    except TypeError:
        values = []
    if not values or isinstance(given, str | bytes):
        raise _impossible(given, name, allowed)

    def is_possible(value: float) -> bool:
        return np.isfinite(value) and (value > 0 or zero and value == 0)

    return [as_number(value, name, allowed, is_possible) for value in values]


def centred(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Subtracts the mean of the first of [N, D] arrays from all, in float64.

    Columns that are constant in `train` up to rounding become 0, in `train` only.
    """
    x = train.astype(np.float64)
    mean = x.mean(axis=0)
    found = x - mean
    size = np.abs(x).max(axis=0)
    found[:, np.abs(found).max(axis=0) <= ROUNDING * size] = 0
    return [found, *(other.astype(np.float64) - mean for other in others)]
