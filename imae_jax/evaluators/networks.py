"""Networks as evaluators see them: predict functions."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from imae_jax.models.masking import Mask

# Baseline rows of an i-MAE's tables: row name -> network that is given the mixture.
BASELINES = {
    "without_distillation": "without_distillation",
    "mae_on_mixture": "teacher",
    "random": "random",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A frozen network, as functions from normalized images to NumPy arrays.

    A classifier has only `classify`; other models have the other three.

    Attributes:
      predict: (images [B, H, W, C], mask) -> the model's named outputs, see `MAE` and
        `IMAE`.
      embed: images [B, H, W, C], all patches visible -> `class_token` [B, D], `mean` [B, D]
        (mean patch token), `layers` [B, depth, D] (mean patch token after each encoder
        block), and `attention` [B, L] (class token's, in the last block).
      encode: images [B, H, W, C], all patches visible -> [B, 1 + L, D], class token first.
      classify: images [B, H, W, C] -> logits [B, classes], by pool.
    """

    # Evaluators run only for models that have what they call: none looks for None.
    predict: Callable[[np.ndarray, Mask], Mapping[str, np.ndarray]] = None  # type: ignore[assignment]
    embed: Callable[[np.ndarray], Mapping[str, np.ndarray]] = None  # type: ignore[assignment]
    encode: Callable[[np.ndarray], np.ndarray] = None  # type: ignore[assignment]
    classify: Callable[[np.ndarray], Mapping[str, np.ndarray]] = None  # type: ignore[assignment]


def rows_of(
    networks: Mapping[str, Network], baselines: Mapping[str, str]
) -> dict[str, Network]:
    """Returns the student and the available baselines, by the row's metric prefix.

    A MAE, which is its own teacher, has no second row of the same numbers.

    Args:
      networks: by name.
      baselines: row name -> network name.
    """
    rows = {"": "student"} | {f"baselines/{row}/": name for row, name in baselines.items()}
    found = {row: networks[name] for row, name in rows.items() if name in networks}
    student = networks["student"]
    return {row: x for row, x in found.items() if not row or x is not student}
