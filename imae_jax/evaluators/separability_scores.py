"""Scores of linear separability, computed on streams of latents."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from imae_jax.errors import UserError
from imae_jax.models.branches import branch_names
from imae_jax.objectives.mixing import weights_at
from imae_jax.probing import ridge
from imae_jax.probing.ridge import AffineMap, Moments
from imae_jax.probing.superposition import gain, null_r2

# Suffix of rows that are a network's tokens [D], not latents in the targets' space [E].
TOKENS = "_tokens/"
# Fraction of the targets' variance that the scored principal components hold (ours).
COMPONENT_VARIANCE = 0.95

# Alpha and row of a table.
Row = tuple[float, str]
Stream = Callable[[str], Iterator["Latents"]]


@dataclasses.dataclass(frozen=True)
class Latents:
    """Features of B mixtures with T tokens each, and targets of their images.

    Attributes:
      features: by alpha and row of the table, [B, S, T, D]; S is 1 for a model that
        reconstructs the subordinate image alone.
      targets: [B, S, T, E], latents of each image alone.
      position: [B, T] int; tokens of equal position are centred together.
    """

    features: Mapping[Row, np.ndarray]
    targets: np.ndarray
    position: np.ndarray

    @property
    def num_sources(self) -> int:
        """Number of images of a mixture, S of the targets."""
        return self.targets.shape[1]

    def tokens(self, row: Row, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns z [B T, D], all images' h side by side [B T, S E], position [B T]."""
        z = self.features[row][:, s]
        h = np.moveaxis(self.targets, 1, 2)
        return (
            z.reshape(-1, z.shape[-1]),
            h.reshape(len(z) * z.shape[1], -1),
            self.position.reshape(-1),
        )


def targets_of(moments: Moments, image: int, num_sources: int) -> Moments:
    """Returns the moments with the targets of one image, see `Latents.tokens`."""
    width = moments.hh.size // num_sources
    return moments.targets(slice(image * width, (image + 1) * width))


@dataclasses.dataclass
class Sums:
    """Sums over a split.

    Attributes:
      rows: moments of each row's and branch's latents with all images' targets.
      targets: moments of each image's targets alone, as inputs (so `zz` is E x E).
    """

    rows: dict[tuple[Row, int], Moments] = dataclasses.field(default_factory=dict)
    targets: dict[int, Moments] = dataclasses.field(default_factory=dict)

    @property
    def num_sources(self) -> int:
        """Number of images of a mixture."""
        return len(self.targets)

    def of_image(self, row: Row, s: int, image: int) -> Moments:
        """Returns the moments of a row's branch `s` with the targets of one image."""
        return targets_of(self.rows[row, s], image, self.num_sources)

    def add(self, latents: Latents, num_positions: int) -> None:
        """Adds a batch."""
        for row, features in latents.features.items():
            for s in range(features.shape[1]):
                z, h, position = latents.tokens(row, s)
                empty = Moments.zeros(num_positions, z.shape[1], h.shape[1])
                self.rows.setdefault((row, s), empty).add(z, h, position)
        for s in range(latents.num_sources):
            h = latents.targets[:, s].reshape(-1, latents.targets.shape[-1])
            empty = Moments.zeros(num_positions, h.shape[1], 0)
            position = latents.position.reshape(-1)
            self.targets.setdefault(s, empty).add(h, h[:, :0], position)

    @classmethod
    def of(cls, stream: Iterator[Latents], num_positions: int) -> "Sums":
        """Returns the sums over all batches of a stream; raises UserError without any."""
        sums = cls()
        for latents in stream:
            sums.add(latents, num_positions)
        if not sums.rows:
            raise UserError("separability: a part has too few images for a mixture")
        return sums


def fit_branches(train: Sums, validation: Sums) -> dict[tuple[Row, int], AffineMap]:
    """Fits, for each row and branch, the map to its own image's targets."""
    branches = branch_names(train.num_sources)
    return {
        (row, s): ridge.fit(
            train.of_image(row, s, s),
            validation.of_image(row, s, s),
            what=f"separability, {row[1] or 'this run, '}{branches[s]}",
        )
        for row, s in train.rows
    }


def assignments(
    latents: Latents, maps: Mapping[tuple[Row, int], AffineMap]
) -> dict[Row, float]:
    """Counts the mixtures whose predictions are nearest to their own targets.

    Nearer than in any other assignment of the S predictions to the S targets. Ties count by
    halves, thirds and so on. Only rows with all branches are included.
    """
    batch_size, count, num_tokens, _ = latents.targets.shape
    correct = {}
    for row, features in latents.features.items():
        if features.shape[1] < count:
            continue
        distance = np.empty((count, count, batch_size))  # by branch and image
        for s in range(count):
            z, _, position = latents.tokens(row, s)
            predicted = maps[row, s](z, position).reshape(batch_size, num_tokens, -1)
            for image in range(count):
                difference = predicted - latents.targets[:, image]
                distance[s, image] = np.square(difference).sum(axis=(1, 2))
        correct[row] = count_own(distance)
    return correct


def count_own(distance: np.ndarray) -> float:
    """Counts the mixtures whose S predictions belong to their own images.

    Args:
      distance: [S, S, B], of the branch's prediction (first) and the image's target.
    Returns:
      The number of mixtures for which no permutation of the images has a smaller total than
      the identity; one counts 1 / k if k permutations, this one included, are as small.
    """
    branches = range(len(distance))
    totals = np.array(
        [
            sum(distance[s, image] for s, image in zip(branches, order, strict=True))
            for order in itertools.permutations(branches)
        ]
    )  # the identity first
    smallest = totals == totals.min(axis=0)
    return float((smallest[0] / smallest.sum(axis=0)).sum())


def score_branch(
    row: Row, s: int, own: AffineMap, splits: Sequence[Sums]
) -> Iterator[tuple[str, float]]:
    """Yields the test scores of one row and branch; `splits`: train, validation, test."""
    yield from own.score(splits[2].of_image(row, s, s)).items()
    cross = []
    for image in set(range(splits[0].num_sources)) - {s}:
        other = [sums.of_image(row, s, image) for sums in splits]
        cross.append(ridge.fit(other[0], other[1]).score(other[2])["r2"])
    yield "cross_r2", max(cross)
    parts = [sums.of_image(row, s, s).pooled() for sums in splits]
    yield "r2_uncentred", ridge.fit(parts[0], parts[1]).score(parts[2])["r2"]


def component_scores(
    own: AffineMap, test: Moments, train_targets: Moments, test_targets: Moments
) -> Iterator[tuple[str, float]]:
    """Yields the R2 of the targets' principal components, each counting the same.

    Components are those of the training targets that hold `COMPONENT_VARIANCE` of their
    variance, by falling variance. `component_r2` is their mean;
    `component_r2/<first>_<last>` the means of bands that double: 1, 2, 3-4, 5-8, ...

    Args:
      own: the map.
      test: moments of the inputs with these targets.
      train_targets, test_targets: moments of the targets alone, as inputs.
    """
    means = own.mean_h, np.zeros((len(own.mean_h), 0))
    values, vectors = np.linalg.eigh(train_targets.centred(*means).zz)
    values, vectors = values[::-1], vectors[:, ::-1]
    held = np.cumsum(values) / values.sum()
    count = 1 + int(np.searchsorted(held, COMPONENT_VARIANCE))
    vectors = vectors[:, :count]
    variances = _diagonal(vectors, test_targets.centred(*means).zz)
    centred = test.centred(own.mean_z, own.mean_h)
    weights = own.weights @ vectors
    explained = 2 * np.einsum("dk,de,ek->k", weights, centred.zh, vectors)
    errors = _diagonal(weights, centred.zz) - explained + variances
    scores = 1 - errors / np.maximum(variances, np.finfo(np.float64).tiny)
    yield "component_r2", float(scores.mean())
    first, last = 1, 1
    while first <= count:
        band = scores[first - 1 : last]
        yield f"component_r2/{first:03d}_{min(last, count):03d}", float(band.mean())
        first, last = last + 1, 2 * last


def _diagonal(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns the diagonal [K] of V' M V for V [D, K]."""
    return np.sum(vectors * (matrix @ vectors), axis=0)


def raw_scores(train: Moments, test: Moments) -> Iterator[tuple[str, float]]:
    """Yields the scores of latents compared directly with targets, without a map."""
    error = test.error(np.eye(len(test.zz)))
    yield "raw_mse", error
    overall = train.pooled().position_means()
    yield "raw_r2", 1 - error / test.pooled().centred(*overall).variance()


def position_only(train: Moments, test: Moments) -> float:
    """Returns the uncentred R2 of predicting each position's training mean."""
    left = test.centred(*train.position_means()).variance()
    return 1 - left / test.pooled().centred(*train.pooled().position_means()).variance()


def against_null(
    null: Sequence[float] | np.ndarray, r2: Mapping[int, float]
) -> Iterator[tuple[str, float]]:
    """Yields each branch's excess over pure superposition, and the gain of all.

    Args:
      null: [S], see `superposition.null_r2`.
      r2: by branch.
    """
    branches = branch_names(len(null))
    for s, value in r2.items():
        yield f"{branches[s]}/excess", value - null[s]
    if len(r2) == len(null):
        yield "gain", gain(list(r2.values()))


def measure(
    stream: Stream, num_positions: int
) -> Iterator[tuple[float | None, str, float]]:
    """Scores every row of a stream of latents.

    Args:
      stream: returns the batches of "train", "validation" or "test".
      num_positions: number of positions, each centred by its own mean.
    Yields:
      (alpha, metric, value). Under `<row><branch>/`: `mse` (M_ls) and `r2` after centring
      by position, `excess` (R2 less its null), `component_r2` (see `component_scores`),
      `cross_r2` (for the *other* image's targets, the largest of several), `r2_uncentred`,
      and, where the latents have the targets' width, `raw_mse` and `raw_r2` (no map). Also
      `<row>gain`, `<row>assignment_accuracy`, `<branch>/r2_null`, and, of no alpha,
      `position_only/<branch>/r2_uncentred`.
    """
    train = Sums.of(stream("train"), num_positions)
    validation = Sums.of(stream("validation"), num_positions)
    maps = fit_branches(train, validation)
    test, count = Sums(), 0
    correct: dict[tuple[float, str], float] = {}
    for latents in stream("test"):
        test.add(latents, num_positions)
        for row, hits in assignments(latents, maps).items():
            correct[row] = correct.get(row, 0) + hits
        count += len(latents.targets)
    branches = branch_names(train.num_sources)
    r2: dict[tuple[float, str], dict[int, float]] = {}
    for (row, s), own in maps.items():
        first, last = (sums.of_image(row, s, s) for sums in (train, test))
        scores = list(score_branch(row, s, own, (train, validation, test)))
        r2.setdefault(row, {})[s] = dict(scores)["r2"]
        scores += component_scores(own, last, train.targets[s], test.targets[s])
        inputs, outputs = len(first.zz), len(train.targets[s].zz)
        if inputs == outputs and not row[1].endswith(TOKENS):
            scores += raw_scores(first, last)
        for name, value in scores:
            yield row[0], f"{row[1]}{branches[s]}/{name}", value
    nulls = {alpha: null_r2(weights_at(alpha, len(branches))) for alpha, _ in r2}
    for (alpha, prefix), found in r2.items():
        for name, value in against_null(nulls[alpha], found):
            yield alpha, prefix + name, value
    for alpha, null in sorted(nulls.items()):
        for branch, value in zip(branches, null, strict=True):
            yield alpha, f"{branch}/r2_null", value
    for (alpha, prefix), hits in correct.items():
        yield alpha, f"{prefix}assignment_accuracy", float(hits / count)
    row, s = next(iter(maps))
    for image, branch in enumerate(branches):
        parts = (sums.of_image(row, s, image) for sums in (train, test))
        value = position_only(*parts)
        yield None, f"position_only/{branch}/r2_uncentred", value
