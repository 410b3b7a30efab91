"""Checks of class labels given by users: any sortable type, but not one-hot."""

from typing import Any

import numpy as np

from imae_jax.errors import UserError
from imae_jax.probing.arrays import as_array, as_numbers, as_text


def as_labels(given: Any, name: str, count: int) -> np.ndarray:
    """Returns labels [count] of any sortable type: int64, strings, or other objects.

    Bools and floating-point numbers, which must be whole, become integers.
    """
    array = as_array(given, name)
    if array.ndim == 2 and array.shape[1] == 1:
        raise UserError(f"{name} is {as_text(array)}; it must be [N]: labels[:, 0]")
    if array.ndim == 2 and len(array) and _is_one_hot(array):
        raise UserError(
            f"{name} is {as_text(array)}, one-hot; it must be [N]: labels.argmax(axis=1)"
        )
    if array.ndim != 1:
        raise UserError(f"{name} is {as_text(array)}; it must be [N], a class for each row")
    if len(array) != count:
        raise UserError(
            f"{name} is {as_text(array)}; it must be [{count}], as the features"
        )
    if array.dtype.kind == "O":
        array = _as_one_kind(array)
    if array.dtype.kind == "V":  # JAX's types, such as int4 and bfloat16
        array = as_numbers(array, name)
    if array.dtype.kind in "buif":
        return _as_integers(array, name)
    try:
        np.unique(array)
        bad = array[(array != array).astype(bool)]  # NaT
    except TypeError as error:
        raise UserError(f"{name} holds labels that do not sort: {error}") from None
    if len(bad):
        raise UserError(f"{name} holds {bad[0]}, which is no class")
    return array.astype(str) if array.dtype.kind == "T" else array


def class_ids(classes: np.ndarray, labels: np.ndarray, name: str) -> np.ndarray:
    """Returns the index of each label [N] in sorted `classes` [C]; C if it is not there.

    Raises:
      UserError: if the types do not match, such as numbers and strings.
    """
    if labels.dtype.kind != classes.dtype.kind:
        raise UserError(
            f"{name} is {as_text(labels)}; its labels must be of the kind of train's, "
            f"{classes.dtype}"
        )
    try:
        places = np.searchsorted(classes, labels)
    except TypeError as error:
        raise UserError(f"{name} does not sort with train's labels: {error}") from None
    known = classes[np.minimum(places, len(classes) - 1)] == labels
    return np.where(known, places, len(classes))


def _is_one_hot(array: np.ndarray) -> bool:
    if array.dtype.kind not in "buif":
        return False
    return bool(np.all(((array == 0) | (array == 1)).all(1) & (array.sum(1) == 1)))


def _as_one_kind(array: np.ndarray) -> np.ndarray:
    """Converts an object array of strings, or of numbers, to an array of that type."""
    if all(isinstance(label, str) for label in array):
        return array.astype(str)
    if all(isinstance(label, bool | int | float | np.number | np.bool_) for label in array):
        return np.array(array.tolist())
    return array


def _as_integers(array: np.ndarray, name: str) -> np.ndarray:
    """Returns whole numbers as int64."""
    if array.dtype.kind == "f":
        bad = array[~(np.floor(array) == array)]  # NaN, too
        if len(bad):
            raise UserError(
                f"{name} holds {bad[0]}; a class must be a whole number, a string or "
                "anything else that sorts"
            )
    limit = 2**53 if array.dtype.kind == "f" else 2**63 - 1
    if len(array) and (array.max() > limit or array.min() < -limit):
        raise UserError(f"{name} holds {array.max()}; it must hold numbers of 64 bits")
    return array.astype(np.int64)
