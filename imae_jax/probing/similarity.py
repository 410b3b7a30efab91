"""Linear CKA of two representations, and effective rank of one."""

import numpy as np

from imae_jax.errors import UserError
from imae_jax.probing.arrays import as_features, as_numbers, as_text, centred, check_rows

# Tolerance for symmetry and eigenvalues, relative to the covariance's size (float32).
TOLERANCE = 1e-5


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the linear centred kernel alignment of [N, D1] and [N, D2] features.

    ||Y'X||^2 / (||X'X|| ||Y'Y||) after centring (Kornblith et al. 2019), in [0, 1]: 1 for
    features that are equal up to rotation and scale.

    Raises:
      UserError: for arrays that are not finite [N, D], for unequal numbers of rows, for
        fewer than three rows (two always give 1), and for constant features.
    """
    x, y = as_features(x, "x", ("N", "D1")), as_features(y, "y", ("N", "D2"))
    check_rows(y, "y", x, "x")
    if len(x) < 3:
        raise UserError(f"x and y have {len(x)} rows; at least 3 are needed")
    (x,), (y,) = centred(x), centred(y)
    for name, array in (("x", x), ("y", y)):
        if not array.any():
            raise UserError(f"{name} does not vary: all its rows are equal")
    both = np.square(y.T @ x).sum()
    return float(both / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def effective_rank(covariance: np.ndarray) -> float:
    """Returns the effective rank of a [D, D] covariance, in [1, D].

    The exponential of the entropy of its normalized eigenvalues (Roy and Vetterli 2007, on
    variances): D for white features, 1 if a single direction varies.

    Raises:
      UserError: for values that are not finite, and for a matrix that is not a covariance:
        not square and symmetric, with negative eigenvalues, or zero.
    """
    given = as_numbers(covariance, "covariance")
    matrix = given.astype(np.float64)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1]:
        raise UserError(
            f"covariance is {as_text(given)}; it must be [D, D]: np.cov(features, "
            "rowvar=False)"
        )
    size = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > TOLERANCE * size:
        raise UserError(f"covariance is {as_text(given)}, but not symmetric; it must be")
    values = np.linalg.eigvalsh(matrix)
    if not size or values[0] < -TOLERANCE * values[-1]:
        raise UserError(
            f"covariance has eigenvalues from {values[0]:.3g} to {values[-1]:.3g}; none "
            "may be negative, and one must be positive"
        )
    values = np.maximum(values, 0)
    fractions = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(fractions * np.log(fractions))))
