"""`Evaluator`: a set of metrics of a trained run, and what it requires."""

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
    """A module's `EVALUATOR`, named after its module in configs and `eval.json`.

    Attributes:
      evaluate: `(networks, held_out, **options)` -> (metric, value) pairs. Its keyword-only
        parameters are the keys of its section of `config.evals`.
      rules: rules for its own options, by key. Options shared by several evaluators
        (`split`, `batch_size`, `seed`, `alpha`, `alphas`, `mask_ratios`) are checked in
        `config_checks`.
      check: (section, key, model) -> None; raises UserError for options that do not fit
        each other or the model.
      tables: makes the report's tables from the results of several runs.
      needs_classifier: True if it measures classifiers; other evaluators need a decoder.
      needs_mixtures: True if it measures i-MAE models only.
      needs_teacher: True if it compares with a teacher's latents of each image alone.
      needs_labels: True if it needs classes; it is skipped for data without labels.
      needs_label_maps: True if it needs the class of each pixel; it is skipped for data
        without label maps.
      chooses_on_validation: True if it chooses a strength or rate on the validation split.
      is_in_training: True if the training loop measures it, and `eval` does not.
      run_keys: keys of its section that are not given to `evaluate`: they name other runs,
        whose networks it is given, or say when and on which images it is measured.
      without_alpha, without_mask_ratio: patterns (`*` matches anything) of the metrics that
        are measured without a mixture, or without a mask.
      definitions: which definition a metric has, where the name leaves it open, by pattern.
    """

    evaluate: Callable[..., Iterable[tuple[str, float]]]
    rules: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
    check: Callable[[ConfigDict, str, Any], None] = lambda section, key, model: None
    tables: Callable[[Results], Iterable[Table]] = lambda results: ()
    needs_classifier: bool = False
    needs_mixtures: bool = False
    needs_teacher: bool = False
    needs_labels: bool = False
    needs_label_maps: bool = False
    chooses_on_validation: bool = False
    is_in_training: bool = False
    run_keys: tuple[str, ...] = ()
    without_alpha: tuple[str, ...] = ()
    without_mask_ratio: tuple[str, ...] = ()
    definitions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def options(self, section: Mapping) -> dict:
        """Returns the keyword arguments of `evaluate` from a section of `config.evals`."""
        return {key: value for key, value in section.items() if key not in self.run_keys}

    def conditions(
        self, metric: str, options: Mapping, mask_ratio: float | None
    ) -> dict[str, float | str | None]:
        """Returns the `alpha` and `mask_ratio` of a metric; None where it has none.

        And its `definition`, if it is one of several in use.

        Args:
          metric: name, such as `alpha_0.30/subordinate/r2`.
          options: the evaluator's options, with the exact (unrounded) values.
          mask_ratio: default where the name contains none.
        """
        alpha = options.get("alpha")
        for weight in options.get("alphas", ()):
            alpha = weight if f"/{at(alpha=weight)}" in f"/{metric}" else alpha
        for ratio in options.get("mask_ratios", ()):
            mask_ratio = ratio if f"/{at(mask_ratio=ratio)}" in f"/{metric}" else mask_ratio
        found = {}
        for pattern, definition in self.definitions.items():
            if _matches(metric, [pattern]):
                found["definition"] = definition
        return found | {
            "alpha": None if _matches(metric, self.without_alpha) else alpha,
            "mask_ratio": None if _matches(metric, self.without_mask_ratio) else mask_ratio,
        }


def _matches(metric: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(metric, pattern) for pattern in patterns)
