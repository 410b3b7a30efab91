"""Networks as evaluators see them: predict functions."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from imae_jax.models.masking import Mask

# Rows beside an i-MAE's own, and the network that each shows the mixture to.
BASELINES = {
    "without_distillation": "without_distillation",
    "mae_on_mixture": "teacher",
    "random": "random",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A frozen network, as functions from standardised images to NumPy arrays.

    Attributes:
      predict: (images [B, H, W, C], mask) -> the model's named outputs, see `MAE` and
        `IMAE`.
      embed: images [B, H, W, C], all patches visible -> `class_token` [B, D], `mean` [B, D]
        of the patch tokens, and `layers` [B, depth, D], the patch tokens' mean after each
        block of the encoder.
      classify: images [B, H, W, C] -> [B, classes] logits, by pool; a classifier has
        nothing else, and others have not this.
    """

    predict: Callable[[np.ndarray, Mask], Mapping[str, np.ndarray]] | None = None
    embed: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None
    classify: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None


def rows_of(
    networks: Mapping[str, Network], baselines: Mapping[str, str]
) -> dict[str, Network]:
    """The student and those baselines (row: network) that exist, by the row's prefix."""
    rows = {"": "student"} | {f"baselines/{row}/": name for row, name in baselines.items()}
    return {row: networks[name] for row, name in rows.items() if name in networks}
