"""Groups of images that are mixed, pairs by default, as a pure function of (seed, step).

There is no iterator state, so a resumed run sees the batches it would have seen.
"""

import functools

import numpy as np

from imae_jax.errors import UserError


def epoch_groups(num_examples: int, seed: int, epoch: int, size: int = 2) -> np.ndarray:
    """Draws one epoch of groups, [num_examples // size, size] indices.

    Each image is taken at most once: the fewer than `size` that remain, random ones, are
    left out of the epoch.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    return order[: num_examples // size * size].reshape(-1, size)


def _bounds(counts: np.ndarray, num_same: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest number of same-class pairs that each class can form.

    `num_same` same-class pairs leave D mixed pairs. Each image of a class that is not
    paired within its class is in a different mixed pair, so a class has at most D such
    images; conversely, if no class has more than D, they can be paired.
    """
    num_different = counts.sum() // 2 - num_same
    return np.maximum(0, -((num_different - counts) // 2)), counts // 2


def _nearest_possible(
    counts: np.ndarray, same_class_rate: float
) -> tuple[int, np.ndarray, np.ndarray]:
    """Feasible number of same-class pairs nearest to the wanted one, and its `_bounds`."""
    num_pairs = int(counts.sum() // 2)
    # Lower bound: images of the largest class that find no partner in another class.
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
    """Number of same-class pairs of each class, [classes] int.

    Proportional to the class's size, up to one pair; the sum is the fraction
    `same_class_rate` of all pairs, or as near as the classes allow. Pairs left over by
    rounding go to random classes.

    Args:
      counts: [classes] number of images of each class; their sum is even.
      same_class_rate: r in [0, 1].
      rng: random generator.
    """
    num_same, low, high = _nearest_possible(counts, same_class_rate)
    share = same_class_rate * counts / 2
    found = np.clip(np.floor(share).astype(int), low, high)
    # One pair at a time to the class furthest below its share (or from the one furthest
    # above); ties are broken at random.
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
    """Draws [D, 2] mixed-class pairs; no class has more than D of the [2 D] indices."""
    pairs = rng.permutation(indices).reshape(-1, 2)
    names = labels[pairs]
    for label in np.unique(names[names[:, 0] == names[:, 1]]):
        is_label = names == label
        same = np.flatnonzero(is_label.all(axis=1))
        without = np.flatnonzero(~is_label.any(axis=1))
        # Each of these pairs exchanges a member with a pair without this class.
        others = rng.choice(without, size=len(same), replace=False)
        for array in (pairs, names):
            array[same, 1], array[others, 1] = array[others, 1], array[same, 1]
    return pairs


def semantic_epoch_pairs(
    labels: np.ndarray, same_class_rate: float, seed: int, epoch: int
) -> np.ndarray:
    """Draws one epoch with a given fraction of same-class pairs (METHOD: paper, version 2).

    The other pairs are of two different classes. Exact up to one pair per class if the
    classes allow it, otherwise as near as possible.

    Args:
      labels: [N] int.
      same_class_rate: r in [0, 1].
      seed, epoch: determine every draw.
    Returns:
      [N // 2, 2] indices, each image at most once.
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


class Groups:
    """Endless sequence of groups of images, epoch after epoch.

    A batch may span two epochs, so no image is dropped.
    """

    def __init__(
        self,
        labels: np.ndarray,
        seed: int,
        same_class_rate: float | None = None,
        size: int = 2,
    ):
        """Takes [N] int labels; without `same_class_rate`, of pairs only, only N matters.

        Raises:
          UserError: if there is no group.
        """
        if len(labels) < size:
            group = "pair" if size == 2 else f"group of {size}"
            raise UserError(f"{len(labels)} training images make no {group}")
        self.labels, self._rate = labels, same_class_rate
        self._seed, self.size = seed, size
        self.per_epoch = len(labels) // size
        self.epoch = functools.lru_cache(maxsize=4)(self._epoch)

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._rate is None:
            return epoch_groups(len(self.labels), self._seed, epoch, self.size)
        return semantic_epoch_pairs(self.labels, self._rate, self._seed, epoch)

    def same_class_rate(self, epoch: int) -> float | None:
        """Fraction of an epoch's groups that are of one class; None without classes."""
        if self.labels.min() < 0:
            return None
        found = self.labels[self.epoch(epoch)]
        return float((found == found[:, :1]).all(axis=1).mean())

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """Indices [B] of the images of a step; those of a group are adjacent."""
        per_step = batch_size // self.size
        numbers = step * per_step + np.arange(per_step)
        epochs, places = np.divmod(numbers, self.per_epoch)
        groups = [self.epoch(int(e))[places[epochs == e]] for e in np.unique(epochs)]
        return np.concatenate(groups).reshape(-1)
