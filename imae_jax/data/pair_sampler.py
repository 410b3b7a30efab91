"""Which images are fed together: epochs of pairs, as a pure function of (seed, step).

No iterator has a state, so a resumed run sees the very batches it would have seen.
"""

import functools

import numpy as np

from imae_jax.errors import UserError


def epoch_pairs(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The pairs of one epoch: [num_examples // 2, 2] indices, every image at most once.

    With an odd number of images one, another each epoch, sits the epoch out.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    return order[: num_examples // 2 * 2].reshape(-1, 2)


def _bounds(counts: np.ndarray, num_same: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and most pairs of its own class that each class can give.

    `num_same` pairs of one class leave D others. The images of a class that are not paired
    among themselves each stand in another one of those, so there are at most D of them; and
    where no class has more than D, they can be paired.
    """
    num_different = counts.sum() // 2 - num_same
    return np.maximum(0, -((num_different - counts) // 2)), counts // 2


def _nearest_possible(
    counts: np.ndarray, same_class_rate: float
) -> tuple[int, np.ndarray, np.ndarray]:
    """The number of pairs of one class nearest to the wanted one, and its `_bounds`."""
    num_pairs = int(counts.sum() // 2)
    # What is left of the largest class when every other image has had one of it pairs up.
    least, most = max(0, int(counts.max()) - num_pairs), int((counts // 2).sum())
    wanted = min(max(round(same_class_rate * num_pairs), least), most)
    for distance in range(num_pairs + 1):
        for num_same in (wanted - distance, wanted + distance):
            low, high = _bounds(counts, num_same)
            fits = (low <= high).all() and low.sum() <= num_same <= high.sum()
            if 0 <= num_same <= num_pairs and fits:
                return num_same, low, high
    raise AssertionError("every set of an even number of images can be paired")


def same_class_counts(
    counts: np.ndarray, same_class_rate: float, rng: np.random.Generator
) -> np.ndarray:
    """How many pairs each class makes of its own images.

    In proportion to the class's size, up to one pair; their sum is the share
    `same_class_rate` of all pairs, or as near to it as the classes allow. Who gets the
    pairs that rounding leaves over is drawn.

    Args:
      counts: [classes] images of each class; their sum is even.
      same_class_rate: r in [0, 1].
      rng: for the draw.
    Returns:
      [classes] int.
    """
    num_same, low, high = _nearest_possible(counts, same_class_rate)
    share = same_class_rate * counts / 2
    found = np.clip(np.floor(share).astype(int), low, high)
    # One pair at a time to the class that is furthest below its share (or taken from the
    # one furthest above); ties are drawn.
    tie = rng.random(len(counts)) * 1e-6
    while (missing := num_same - found.sum()) != 0:
        sign = 1 if missing > 0 else -1
        room = found < high if missing > 0 else found > low
        lag = np.where(room, sign * (share - found) + tie, -np.inf)
        found[np.argsort(-lag)[: min(abs(missing), room.sum())]] += sign
    return found


def _pair_different(
    indices: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Pairs [D, 2] of two different classes; no class has more than D of the indices."""
    pairs = rng.permutation(indices).reshape(-1, 2)
    names = labels[pairs]
    for label in np.unique(names[names[:, 0] == names[:, 1]]):
        is_label = names == label
        same = np.flatnonzero(is_label.all(axis=1))
        without = np.flatnonzero(~is_label.any(axis=1))
        # Each of these pairs exchanges a member with a pair free of the class.
        others = rng.choice(without, size=len(same), replace=False)
        for array in (pairs, names):
            array[same, 1], array[others, 1] = array[others, 1], array[same, 1]
    return pairs


def semantic_epoch_pairs(
    labels: np.ndarray, same_class_rate: float, seed: int, epoch: int
) -> np.ndarray:
    """One epoch in which a share of the pairs is of one class (METHOD: paper, version 2).

    The others are of two different classes. Exact up to one pair per class where the
    classes allow it, else as near as they allow.

    Args:
      labels: [N] int.
      same_class_rate: r in [0, 1].
      seed, epoch: decide every draw.
    Returns:
      [N // 2, 2] indices, every image at most once.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(labels))[: len(labels) // 2 * 2]
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    same_counts = same_class_counts(counts, same_class_rate, rng)
    is_same = np.zeros(len(by_class), bool)
    for start, number in zip(starts, same_counts, strict=True):
        is_same[start : start + 2 * number] = True
    same = by_class[is_same].reshape(-1, 2)
    different = _pair_different(by_class[~is_same], labels, rng)
    return rng.permutation(np.concatenate([same, different]))


class Pairs:
    """An endless stream of pairs: one epoch after the other, without a gap.

    Where a batch reaches the end of an epoch it takes the rest of its pairs from the next,
    so that no image is ever dropped.
    """

    def __init__(self, labels: np.ndarray, seed: int, same_class_rate: float | None = None):
        """`labels` are [N] int; without a `same_class_rate` only their number counts.

        Raises:
          UserError: if there is no pair.
        """
        if len(labels) < 2:
            raise UserError(f"{len(labels)} training images make no pair")
        self.labels, self._rate = labels, same_class_rate
        self._seed = seed
        self.per_epoch = len(labels) // 2
        self.epoch = functools.lru_cache(maxsize=4)(self._epoch)

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._rate is None:
            return epoch_pairs(len(self.labels), self._seed, epoch)
        return semantic_epoch_pairs(self.labels, self._rate, self._seed, epoch)

    def same_class_rate(self, epoch: int) -> float | None:
        """The share of an epoch's pairs that are of one class; None without classes."""
        if self.labels.min() < 0:
            return None
        first, second = self.labels[self.epoch(epoch)].T
        return float((first == second).mean())

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """Indices [B] of step `step`'s images; (2i, 2i + 1) are a pair."""
        numbers = step * (batch_size // 2) + np.arange(batch_size // 2)
        epochs, places = np.divmod(numbers, self.per_epoch)
        pairs = [self.epoch(int(e))[places[epochs == e]] for e in np.unique(epochs)]
        return np.concatenate(pairs).reshape(-1)
