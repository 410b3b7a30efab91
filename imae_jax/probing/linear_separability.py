"""Linear separability of plain feature arrays, from any encoder."""

from collections.abc import Sequence

import numpy as np

from imae_jax.errors import UserError
from imae_jax.probing.arrays import (
    ROUNDING,
    as_features,
    as_strengths,
    as_text,
    centred,
    check_columns,
    check_rows,
)
from imae_jax.probing.ridge import RIDGES, Moments, fit

# Fraction of training examples held out to choose the ridge strength.
VALIDATION_SHARE = 0.2


def linear_separability(
    train_features: np.ndarray,
    train_targets: np.ndarray,
    test_features: np.ndarray,
    test_targets: np.ndarray,
    *,
    ridges: Sequence[float] = RIDGES,
) -> dict[str, float]:
    """Measures how well an affine map of the features predicts the targets.

    M_ls = mean ||W z + b - h||^2 and R2 = 1 - M_ls / Var(h), on the test arrays, with the
    variance about the training mean. All rows are centred together (`evaluate` centres each
    position). Arrays may be from NumPy, JAX or PyTorch, or lists of rows; there may be
    fewer rows than D.

    Args:
      train_features, test_features: [N, D], such as tokens of mixtures.
      train_targets, test_targets: [N, E], such as tokens of one of the images alone.
      ridges: strengths, relative to the features' mean variance. If several are given, one
        is chosen on the last fifth of the training rows, then all rows are fitted.
    Returns:
      `mse` (M_ls, per row and channel), `r2`, and the chosen `ridge`.
    Raises:
      UserError: for arrays that are not 2-D or do not match, for values that are not
        finite, for fewer than three training rows (two with a single ridge), for invalid
        strengths, and for constant targets.
    """
    train_z = as_features(train_features, "train_features")
    train_h = as_features(train_targets, "train_targets", ("N", "E"))
    test_z = as_features(test_features, "test_features")
    test_h = as_features(test_targets, "test_targets", ("N", "E"))
    check_rows(train_h, "train_targets", train_z, "train_features")
    check_rows(test_h, "test_targets", test_z, "test_features")
    check_columns(test_z, "test_features", train_z, "train_features")
    check_columns(test_h, "test_targets", train_h, "train_targets")
    ridges = as_strengths(ridges, "ridges", zero=True)
    least = 3 if len(ridges) > 1 else 2
    if len(train_z) < least:
        raise UserError(
            f"train_features is {as_text(train_z)}; at least {least} rows are needed"
        )
    size = np.abs(train_h).max()
    (train_z, test_z), (train_h, test_h) = (
        centred(train_z, test_z),
        centred(train_h, test_h),
    )
    if np.abs(test_h).max() <= ROUNDING * size:
        raise UserError(
            "test_targets do not vary about the mean of train_targets: there is nothing to "
            "explain"
        )
    first = round(len(train_z) * (1 - VALIDATION_SHARE))
    fitted = Moments.of(train_z[:first], train_h[:first])
    held = Moments.of(train_z[first:], train_h[first:])
    what = "train_features and train_targets"
    several = len(ridges) > 1
    ridge = fit(fitted, held, ridges, what).ridge if several else ridges[0]
    everything = fitted + held
    chosen = fit(everything, everything, [ridge], what)
    return {**chosen.score(Moments.of(test_z, test_h)), "ridge": ridge}
