"""Linear probes of known factors of each image, on a branch's latents of the mixture."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imae_jax.evaluators.factor_targets import Factor, factors_of
from imae_jax.evaluators.held_out import Batch, HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.pooled_latents import Vectors, collect, prefixes, questions
from imae_jax.models.branches import branch_names
from imae_jax.probing import ridge
from imae_jax.probing.linear_classifiers import Labelled, Splits, chance, whitened_accuracy
from imae_jax.probing.ridge import Moments


def probe(
    features: Sequence[np.ndarray], factors: Sequence[Factor], s: int, what: str
) -> tuple[str, float]:
    """Fits a linear probe of a factor and scores it.

    Args:
      features: whitened, [N, E] each, of train, validation and test.
      factors: the factor on the same splits.
      s: index of the image whose factor is predicted.
      what: name of the probe, for messages.
    Returns:
      The metric ("accuracy" of logistic regression for a category, else "r2" of ridge
      regression, pooled over a factor's components) and its value.
    """
    counted = [z[factor.counted[:, s]] for z, factor in zip(features, factors, strict=True)]
    targets = [factor.of_image(s) for factor in factors]
    if factors[0].is_category:
        return "accuracy", whitened_accuracy(Splits(*map(Labelled, counted, targets)))
    train, validation, test = map(Moments.of, counted, targets)
    return "r2", ridge.fit(train, validation, what=what).score(test)["r2"]


def whitened(
    features: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    what: str,
    *,
    is_padded: bool,
) -> list[np.ndarray]:
    """Returns the whitened features of train, validation and test, [N, E] each.

    Args:
      features, labels: [N, E] and [N] of each split.
      what: name of the probe, for messages.
      is_padded: True for zeros in place of directions in which train does not vary; False
        to leave these out, so that there are fewer columns.
    """
    splits = Splits(*map(Labelled, features, labels)).checked(what).whitened()
    width = features[0].shape[1] - splits.train.features.shape[1] if is_padded else 0
    return [np.pad(z, ((0, 0), (0, width))) for z, _ in splits]


@dataclasses.dataclass(frozen=True)
class FactorProbes:
    """Evaluates which factors of each image survive in the mixture's latents.

    Attributes:
      name: evaluator's name, for messages.
      selected: batch -> [B] bool, the mixtures to probe.
      pools: see `pooled_latents.pooled`; metrics of the first omit its name, the others are
        measured at `alpha` only.
      only_label: True to probe the class alone, whose metrics then omit `label/`; else all
        known factors.
    """

    name: str
    selected: Callable[[Batch], np.ndarray]
    pools: Sequence[str]
    only_label: bool = False

    # The keyword parameters are the keys of the evaluator's section.
    def evaluate(
        self,
        networks: Mapping[str, Network],
        held_out: HeldOut,
        *,
        split: str,
        alpha: float,
        alphas: Sequence[float],
        batch_size: int,
        seed: int,
    ) -> Iterator[tuple[str, float]]:
        """Scores a linear probe of each factor on each row's latents.

        Args:
          networks: `student`, `teacher`, and optionally baselines.
          held_out: provides the mixtures and their images' factors.
          split: the split to score; probes are fitted on `train`, their strength chosen on
            `validation`.
          alpha: weight of the subordinate image.
          alphas: weights of the sweep, whose metrics start with `alpha_<weight>/`.
          batch_size, seed: see `HeldOut.batches`.
        Yields:
          `<row><branch>/<factor>/{accuracy,r2}`: accuracy of a category, R2 of a quantity
          (0 for predicting its mean); and `other_branch_accuracy` or `other_branch_r2`, the
          same predicted from the *other* branch. The row `teacher_on_image/` is the teacher
          on each image alone, under the same mask; its other branch is the teacher's
          latents of the other image (information by exclusion). `<factor>/chance`: accuracy
          of the majority category. `<factor>/count`: number of mixtures scored, see
          `as_factor`.
        """
        batches = dict(batch_size=batch_size, seed=seed)
        options: dict[str, Any] = dict(pools=self.pools, alphas=sorted({alpha, *alphas}))
        names = ("train", "validation", split)
        parts = [
            collect(networks, held_out.batches(name, **batches), self.selected, **options)
            for name in names
        ]
        symmetry = held_out.dataset.symmetry
        factors = [
            factors_of(
                part.labels,
                {} if self.only_label else part.factors,
                symmetry,
                f"{self.name}: the {name} split",
            )
            for name, part in zip(names, parts, strict=True)
        ]
        branches = branch_names(parts[0].labels.shape[1])
        for row, pool in parts[0].features:
            is_first = pool == self.pools[0]
            starts = prefixes(row, alpha, alphas if is_first else ())
            if not starts:
                continue
            pool_part = "" if is_first else f"{pool}/"
            for s, name, metric, value in self._scores(row, pool, parts, factors):
                end = f"{branches[s]}/{self._part(name)}{pool_part}{metric}"
                for start in starts:
                    yield start + end, value
        for name, train in factors[0].items():
            targets = factors[-1][name].of_image(0)
            if train.is_category:
                yield f"{self._part(name)}chance", chance(train.of_image(0), targets)
            yield f"{self._part(name)}count", len(targets)

    def _part(self, factor: str) -> str:
        """Returns the factor's part of a metric name."""
        return "" if self.only_label else f"{factor}/"

    def _scores(
        self,
        row: str,
        pool: str,
        parts: Sequence[Vectors],
        factors: Sequence[Mapping[str, Factor]],
    ) -> Iterator[tuple[int, str, str, float]]:
        """Yields (image s, factor, metric, value) of a row's pooled latents."""
        branches = branch_names(parts[0].labels.shape[1])
        asked = (questions(part.features[row, pool], len(branches)) for part in parts)
        for answers in zip(*asked, strict=True):
            s, whose, _ = answers[0]
            what = f"{self.name}, {row}{branches[s]}"
            labels = [part.labels[:, s] for part in parts]
            # Features of equal width share the compiled fits of many factors. Zeros change
            # how sums are rounded, so the label alone, fitted once, does without.
            features = whitened(
                [z for *_, z in answers], labels, what, is_padded=not self.only_label
            )
            for name in factors[0]:
                own = [known[name] for known in factors]
                metric, value = probe(features, own, s, f"{what}/{name}")
                yield s, name, f"{whose}{metric}", value
