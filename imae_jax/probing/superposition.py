"""The null of linear separability: pure superposition, which separates nothing.

For a linear encoder, a linear target and independent images of one distribution, each image
of a mixture with weights w explains exactly w_s^2 / sum(w^2) of its own target's variance
(ours; derived in docs/theory.md). Scores are read against it.
"""

from collections.abc import Sequence

import numpy as np


def null_r2(weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the R2 of each image under pure superposition.

    Args:
      weights: [S] weights of the mixed images, such as (alpha, 1 - alpha).
    Returns:
      [S] in [0, 1], summing to 1: 0.155 and 0.845 for weights of 0.3 and 0.7.
    """
    squares = np.square(np.asarray(weights, np.float64))
    return squares / squares.sum()


def gain(r2: Sequence[float] | np.ndarray) -> float:
    """Returns how much more all images together are explained than by superposition.

    (sum(R2) - 1) / (S - 1), at most 1. 0 is superposition, or one image at the cost of the
    others; each image's excess, R2 less its null, tells which.

    Args:
      r2: [S], one of each image, S at least 2.
    """
    return float((np.sum(r2) - 1) / (len(r2) - 1))
