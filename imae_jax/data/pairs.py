"""Which images are fed together: an epoch of pairs, as a pure function of (seed, step).

No iterator has a state, so a resumed run sees the very batches it would have seen.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def epoch_pairs(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The pairs of one epoch: [num_examples // 2, 2] indices, every image at most once.

    With an odd number of images one, another each epoch, sits the epoch out.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    return order[: num_examples // 2 * 2].reshape(-1, 2)


def batch_indices(num_examples: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices [B] of step `step`'s images; (2i, 2i + 1) are a pair.

    Epochs follow each other without a gap: where a batch reaches the end of one, it takes
    the rest of its pairs from the next, so that no image is ever dropped.
    """
    pairs_per_epoch = num_examples // 2
    numbers = step * (batch_size // 2) + np.arange(batch_size // 2)
    epochs, places = np.divmod(numbers, pairs_per_epoch)
    pairs = [
        epoch_pairs(num_examples, seed, int(epoch))[places[epochs == epoch]]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(pairs).reshape(-1)
