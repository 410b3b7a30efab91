"""Debiased linear CKA of two representations, and effective rank of one."""

import numpy as np

from imae_jax.errors import UserError
from imae_jax.probing.arrays import as_features, as_numbers, as_text, centred, check_rows

# Tolerance for symmetry and eigenvalues, relative to the covariance's size (float32).
TOLERANCE = 1e-5
# Largest rounding of a covariance, in its largest eigenvalue, that leaves a rank.
MOST_ROUNDING = 0.05


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the debiased linear CKA of [N, D1] and [N, D2] features, at most 1.

    Centred kernel alignment (Kornblith et al. 2019) with the unbiased estimator of HSIC
    (Song et al. 2012) in all three places, as in Nguyen et al. 2021: 1 for features that
    are equal up to rotation and scale, about 0, on either side, for independent ones. The
    biased estimator gives independent features up to D / N.

    Raises:
      UserError: for arrays that are not finite [N, D], for unequal numbers of rows, for
        fewer than four rows, for constant features, and for features whose similarity
        among rows is no more than chance.
    """
    x, y = as_features(x, "x", ("N", "D1")), as_features(y, "y", ("N", "D2"))
    check_rows(y, "y", x, "x")
    if len(x) < 4:
        raise UserError(f"x and y have {len(x)} rows; at least 4 are needed")
    (x,), (y,) = centred(x), centred(y)
    own = []
    for name, array in (("x", x), ("y", y)):
        if not array.any():
            raise UserError(f"{name} does not vary: all its rows are equal")
        own.append(_unbiased_hsic(array, array))
        biased = np.square(array.T @ array).sum() / len(array) ** 2
        if not own[-1] > TOLERANCE * biased:
            raise UserError(
                f"{name} is {as_text(array)}: no two of its rows are more alike than "
                "others; a debiased CKA needs more rows"
            )
    return float(_unbiased_hsic(x, y) / np.sqrt(own[0] * own[1]))


def _unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased HSIC of linear kernels (Song et al. 2012, equation 5).

    In terms of D1 x D2 products, not of N x N kernels: K = x x' and L = y y' less their
    diagonals.
    """
    n = len(x)
    diagonal_x, diagonal_y = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    rows_x = x @ x.sum(axis=0) - diagonal_x  # K 1
    rows_y = y @ y.sum(axis=0) - diagonal_y  # L 1
    trace = np.square(x.T @ y).sum() - diagonal_x @ diagonal_y  # tr(K L)
    total = rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
    return (trace + total - 2 / (n - 2) * (rows_x @ rows_y)) / (n * (n - 3))


def effective_rank(covariance: np.ndarray) -> float:
    """Returns the effective rank of features by their [D, D] covariance, in [1, D].

    The exponential of the entropy of the features' normalized singular values, which are
    the square roots of the covariance's eigenvalues (Roy and Vetterli 2007; RankMe, Garrido
    et al. 2023): D for white features, 1 if a single direction varies. A covariance is of
    centred features; RankMe's own are not centred, give `features.T @ features` for those.

    Raises:
      UserError: for values that are not finite, for a matrix that is not a covariance (not
        square and symmetric, with negative eigenvalues, or zero), and for one that is too
        wide for its type.
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
    # Roots would make much of the rounding errors of eigenvalues that are 0.
    rounding = len(values) * np.finfo(_type_of(given)).eps
    if rounding > MOST_ROUNDING:
        raise UserError(
            f"covariance is {as_text(given)}, whose rounding hides small eigenvalues; it "
            "must be float32 or float64"
        )
    singular = np.sqrt(values[values > rounding * values[-1]])
    fractions = singular / singular.sum()
    return float(np.exp(-np.sum(fractions * np.log(fractions))))


def _type_of(array: np.ndarray) -> np.dtype:
    """Returns the floating type of an array, float64 for other numbers."""
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
