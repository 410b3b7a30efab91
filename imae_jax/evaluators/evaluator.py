"""`Evaluator`: a way to measure a trained run, and all that it needs."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from imae_jax.config.rules import Rule
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.tables import Results, Table


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A module's `EVALUATOR`, known by the module's name in configs and `eval.json`.

    Attributes:
      evaluate: (networks, held_out, **options) -> (metric, value) pairs. Its keyword-only
        parameters are the keys of its section of `config.evals`.
      rules: of its own options, by key. What several evaluators have is checked in
        `config_checks`: `split`, `batch_size`, `seed`, `alpha`, `alphas`, `mask_ratios`.
      check: (section, key, model) -> None; raises UserError for options that do not fit
        each other or the model.
      tables: the report's tables of the numbers of several runs.
      needs_classifier: whether it measures a classifier; the others need a decoder.
      needs_mixtures: whether it measures an i-MAE alone.
      needs_teacher: whether it compares with a teacher's latents of each image alone.
      needs_labels: whether it names classes; it is left out where there are none.
      chooses_on_validation: whether it chooses a strength or a rate on that split.
      run_keys: keys of its section that name other runs, whose networks it is given.
      without_alpha, without_mask_ratio: metrics of whole images, or of images alone, as
        patterns: `*` stands for anything.
    """

    evaluate: Callable[..., Iterable[tuple[str, float]]]
    rules: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
    check: Callable[[ConfigDict, str, Any], None] = lambda section, key, model: None
    tables: Callable[[Results], Iterable[Table]] = lambda results: ()
    needs_classifier: bool = False
    needs_mixtures: bool = False
    needs_teacher: bool = False
    needs_labels: bool = False
    chooses_on_validation: bool = False
    run_keys: tuple[str, ...] = ()
    without_alpha: tuple[str, ...] = ()
    without_mask_ratio: tuple[str, ...] = ()

    def options(self, section: Mapping) -> dict:
        """The keyword arguments of `evaluate` in a section of `config.evals`."""
        return {key: value for key, value in section.items() if key not in self.run_keys}

    def conditions(
        self, metric: str, options: Mapping, mask_ratio: float | None
    ) -> dict[str, float | None]:
        """The `alpha` and `mask_ratio` a metric was measured at; None where it has none.

        Args:
          metric: such as `alpha_0.30/subordinate/r2`.
          options: whose exact weights and ratios count.
          mask_ratio: where the metric's name gives no other.
        """
        alpha = options.get("alpha")
        for weight in options.get("alphas", ()):
            alpha = weight if f"/{at(alpha=weight)}" in f"/{metric}" else alpha
        for ratio in options.get("mask_ratios", ()):
            mask_ratio = ratio if f"/{at(mask_ratio=ratio)}" in f"/{metric}" else mask_ratio
        return {
            "alpha": None if _matches(metric, self.without_alpha) else alpha,
            "mask_ratio": None if _matches(metric, self.without_mask_ratio) else mask_ratio,
        }


def _matches(metric: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(metric, pattern) for pattern in patterns)
