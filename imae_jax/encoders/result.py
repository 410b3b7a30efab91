"""`Separability`: the scores of encoders, as a table, a chart and numbers."""

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from imae_jax.encoders.mixture_stream import SUPERPOSED
from imae_jax.probing.superposition import null_r2


@dataclasses.dataclass(frozen=True)
class Score:
    """Scores at one alpha.

    Attributes:
      alpha: weight of the subordinate image.
      subordinate, dominant: R2 of each image's target.
      gain: their sum less 1, 0 for superposition.
      low, high: bounds of the gain, 95 % of bootstrap samples of pairs.
    """

    alpha: float
    subordinate: float
    dominant: float
    gain: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: an encoder, or a control that predicts its targets.

    Attributes:
      encoder: the encoder's name.
      control: "" for the encoder itself, or the control's name.
      shown: the part of an image that it sees.
      preprocessing: of its images, in words.
      target: name of the target, "own" for its own features of each image alone.
      width: D.
      std: standard deviation of its features, over mixtures at the first alpha.
      rank: effective rank of these features, in [1, D].
      scores: by alpha.
    """

    encoder: str
    control: str
    shown: str
    preprocessing: str
    target: str
    width: int
    std: float
    rank: float
    scores: Sequence[Score]

    @property
    def label(self) -> str:
        """Name of the row."""
        return f"{self.encoder}: {self.control}" if self.control else self.encoder


@dataclasses.dataclass(frozen=True)
class Separability:
    """The scores of one or several encoders, as `imae_jax.separability` returns them.

    Attributes:
      rows: encoders, each followed by its controls.
      features: "pooled" or "tokens".
      num_images: images of `train` (to fit), `validation` (to choose the ridge) and `test`.
      image_shape: (H, W, C) of the images, before each encoder's preprocessing.
    """

    rows: Sequence[Row]
    features: str
    num_images: dict[str, int]
    image_shape: tuple[int, int, int]

    @property
    def alphas(self) -> list[float]:
        """The alphas, ascending."""
        return [score.alpha for score in self.rows[0].scores]

    @property
    def gain(self) -> float:
        """The first encoder's gain, its mean over alphas."""
        return float(np.mean([score.gain for score in self.rows[0].scores]))

    def table(self) -> str:
        """Returns a Markdown table: a line for each row and alpha, after the null's."""
        lines = [
            "| encoder | alpha | R2 subordinate | R2 dominant | gain | 95 % over pairs "
            "| width | std | rank |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for alpha in self.alphas:
            null = null_r2((alpha, 1 - alpha))
            lines.append(
                f"| superposition (null) | {alpha:g} | {null[0]:.3f} | {null[1]:.3f} "
                "| 0 | | | | |"
            )
        for row in self.rows:
            for score in row.scores:
                lines.append(
                    f"| {row.label} | {score.alpha:g} | {score.subordinate:.3f} "
                    f"| {score.dominant:.3f} | {score.gain:+.3f} "
                    f"| {score.low:+.3f} .. {score.high:+.3f} "
                    f"| {row.width} | {row.std:.3g} | {row.rank:.1f} |"
                )
        return "\n".join(lines)

    def notes(self) -> str:
        """Returns how it was measured: images, targets and preprocessing, line by line."""
        counts = ", ".join(f"{n:,} {split}" for split, n in self.num_images.items())
        encoders = [row for row in self.rows if not row.control]
        height, width, channels = self.image_shape
        size = f"{height}x{width} pixels, channels: {channels}"
        lines = [f"{self.features} features; images: {counts}, of {size}."]
        for row in encoders:
            lines.append(f"{row.encoder}: {row.preprocessing}; {row.shown}.")
        targets = sorted({row.target for row in encoders})
        if targets == ["own"]:
            lines.append("Target: each encoder's own features of each image alone.")
            if len(encoders) > 1:
                lines.append(
                    "Gains towards different targets do not rank encoders; a common target "
                    "does."
                )
        else:
            lines.append(f"Target: features of each image alone by {', '.join(targets)}.")
        lines.append("Intervals cover the test pairs, not the fit or training seeds.")
        if any(row.control == SUPERPOSED for row in self.rows):
            lines.append(
                "Superposition, fitted: the sum of both images' targets, which has 0 with "
                "endless images. What it has here is the null for these."
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Draws the gain over alpha, a panel an encoder; returns a matplotlib figure."""
        # Imported late: numbers alone need no charts.
        from imae_jax.report import charts

        encoders: dict[str, dict] = {}
        for row in self.rows:
            points = [(score.alpha, score.gain) for score in row.scores]
            encoders.setdefault(row.encoder, {})[row.control] = points
        return charts.gains(encoders)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serializable dicts and lists."""
        found = json.loads(json.dumps(dataclasses.asdict(self)))
        return found | {
            "null_r2": {f"{a:g}": null_r2((a, 1 - a)).tolist() for a in self.alphas}
        }

    def __repr__(self) -> str:
        head = "gain over superposition (0), at alpha"
        width = max(len(head), *(len(row.label) for row in self.rows))
        lines = [head.ljust(width) + "".join(f"{alpha:>8g}" for alpha in self.alphas)]
        for row in self.rows:
            numbers = "".join(f"{score.gain:>+8.3f}" for score in row.scores)
            lines.append(row.label.ljust(width) + numbers)
        return "\n".join([*lines, textwrap.indent(self.notes(), "  ")])
