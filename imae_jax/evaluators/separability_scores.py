"""Scores of linear separability, computed on streams of latents."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from imae_jax.objectives.mixing import BRANCHES
from imae_jax.probing import ridge
from imae_jax.probing.ridge import AffineMap, Moments

# Suffix of rows that are a network's tokens [D], not latents in the targets' space [E].
TOKENS = "_tokens/"


@dataclasses.dataclass(frozen=True)
class Latents:
    """Features of B mixtures with T tokens each, and targets of their images.

    Attributes:
      features: by row of the table, [B, S, T, D]; S is 1 for a model with one branch.
      targets: [B, S, T, E], latents of each image alone.
      position: [B, T] int; tokens of equal position are centred together.
    """

    features: Mapping[str, np.ndarray]
    targets: np.ndarray
    position: np.ndarray

    def tokens(self, row: str, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns z [B T, D], both images' h side by side [B T, S E], position [B T]."""
        z = self.features[row][:, s]
        h = np.moveaxis(self.targets, 1, 2)
        return (
            z.reshape(-1, z.shape[-1]),
            h.reshape(len(z) * z.shape[1], -1),
            self.position.reshape(-1),
        )


# (row, branch) -> the moments of its latents and both images' targets.
Table = dict[tuple[str, int], Moments]


def add_latents(table: Table, latents: Latents, num_positions: int) -> None:
    """Adds a batch to the moments of every row and branch."""
    for row, features in latents.features.items():
        for s in range(features.shape[1]):
            z, h, position = latents.tokens(row, s)
            empty = Moments.zeros(num_positions, z.shape[1], h.shape[1])
            table.setdefault((row, s), empty).add(z, h, position)


def fit_branches(train: Table, validation: Table) -> dict[tuple[str, int], AffineMap]:
    """Fits, for each row and branch, the map to its own image's targets."""
    return {
        (row, s): ridge.fit(
            train[row, s].targets(own_columns(train[row, s], s)),
            validation[row, s].targets(own_columns(train[row, s], s)),
            what=f"separability, {row or 'this run, '}{BRANCHES[s]}",
        )
        for row, s in train
    }


def own_columns(moments: Moments, s: int) -> slice:
    """Returns the columns of image `s` among the targets of `Latents.tokens`."""
    width = moments.hh.size // len(BRANCHES)
    return slice(s * width, (s + 1) * width)


def assignments(
    latents: Latents, maps: Mapping[tuple[str, int], AffineMap]
) -> dict[str, float]:
    """Counts the mixtures whose predictions are nearer to their own targets than swapped.

    Ties count half. Only rows with both branches are included.
    """
    batch_size, _, num_tokens, _ = latents.targets.shape
    correct = {}
    for row, features in latents.features.items():
        if features.shape[1] < len(BRANCHES):
            continue
        straight, swapped = np.zeros((2, batch_size))
        for s in range(len(BRANCHES)):
            z, _, position = latents.tokens(row, s)
            predicted = maps[row, s](z, position).reshape(batch_size, num_tokens, -1)
            for total, target in ((straight, s), (swapped, 1 - s)):
                difference = predicted - latents.targets[:, target]
                total += np.square(difference).sum(axis=(1, 2))
        correct[row] = np.sum(straight < swapped) + 0.5 * np.sum(straight == swapped)
    return correct


def score_branch(
    s: int, own: AffineMap, train: Moments, validation: Moments, test: Moments
) -> Iterator[tuple[str, float]]:
    """Yields the test scores of one row and branch."""
    yield from own.score(test.targets(own_columns(test, s))).items()
    other = [m.targets(own_columns(m, 1 - s)) for m in (train, validation, test)]
    yield "cross_r2", ridge.fit(*other[:2]).score(other[2])["r2"]
    parts = [m.targets(own_columns(m, s)).pooled() for m in (train, validation, test)]
    yield "r2_uncentred", ridge.fit(*parts[:2]).score(parts[2])["r2"]


def raw_scores(s: int, train: Moments, test: Moments) -> Iterator[tuple[str, float]]:
    """Yields the scores of latents compared directly with targets, without a map."""
    own = test.targets(own_columns(test, s))
    error = own.error(np.eye(len(own.zz)))
    yield "raw_mse", error
    overall = train.targets(own_columns(train, s)).pooled().position_means()
    yield "raw_r2", 1 - error / own.pooled().centred(*overall).variance()


def position_only(s: int, train: Moments, test: Moments) -> float:
    """Returns the uncentred R2 of predicting each position's training mean."""
    train, test = (m.targets(own_columns(m, s)) for m in (train, test))
    left = test.centred(*train.position_means()).variance()
    return 1 - left / test.pooled().centred(*train.pooled().position_means()).variance()


def measure(
    stream: Callable[[str], Iterator[Latents]], num_positions: int
) -> Iterator[tuple[str, float]]:
    """Scores every row of a stream of latents.

    Args:
      stream: returns the batches of "train", "validation" or "test".
      num_positions: number of positions, each centred by its own mean.
    Yields:
      Under `<row><branch>/`: `mse` (M_ls) and `r2` after centring by position, `cross_r2`
      (for the *other* image's targets), `r2_uncentred`, and, where the latents have the
      targets' width, `raw_mse` and `raw_r2` (no map). Also `<row>assignment_accuracy` and
      `position_only/<branch>/r2_uncentred`.
    """
    train, validation, test = {}, {}, {}
    for table, split in ((train, "train"), (validation, "validation")):
        for latents in stream(split):
            add_latents(table, latents, num_positions)
    maps = fit_branches(train, validation)
    correct, count = {}, 0
    for latents in stream("test"):
        add_latents(test, latents, num_positions)
        for row, hits in assignments(latents, maps).items():
            correct[row] = correct.get(row, 0) + hits
        count += len(latents.targets)
    for row, s in maps:
        moments = train[row, s], validation[row, s], test[row, s]
        scores = list(score_branch(s, maps[row, s], *moments))
        inputs, outputs = len(moments[0].zz), moments[0].hh.size // len(BRANCHES)
        if inputs == outputs and not row.endswith(TOKENS):
            scores += raw_scores(s, moments[0], moments[2])
        for name, value in scores:
            yield f"{row}{BRANCHES[s]}/{name}", value
    for row, hits in correct.items():
        yield f"{row}assignment_accuracy", float(hits / count)
    some = next(iter(maps))
    for s, branch in enumerate(BRANCHES):
        value = position_only(s, train[some], test[some])
        yield f"position_only/{branch}/r2_uncentred", value
