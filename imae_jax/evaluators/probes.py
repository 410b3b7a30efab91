"""What a frozen encoder knows about classes: linear probe, ridge probe, k-NN.

Every network sees whole, unmasked images, without augmentation.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network, rows_of
from imae_jax.probing.knn import knn_accuracy
from imae_jax.probing.lars_probe import lars_accuracy
from imae_jax.probing.linear_classifiers import Labelled, Splits, chance, ridge_accuracy

POOLS = ("class_token", "mean")

# Of more raw pixels a fit would take longer than everything else together.
MAX_PIXELS = 4096

# Rows beside the run's own, by network.
BASELINES = {
    "teacher": "teacher",
    "without_distillation": "without_distillation",
    "random": "random",
}


def embedded(
    network: Network, held_out: HeldOut, split: str, batch_size: int
) -> dict[str, np.ndarray]:
    """A network's pooled features of a split's images, [N, D] by pool."""
    parts = [
        {pool: found[pool][valid] for pool in POOLS}
        for images, valid in held_out.images(split, batch_size=batch_size)
        for found in [network.embed(images)]
    ]
    return {pool: np.concatenate([part[pool] for part in parts]) for pool in POOLS}


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    batch_size: int,
    seed: int,
    neighbours: int,
    temperature: float,
    lars: Mapping,
) -> Iterator[tuple[str, float]]:
    """Accuracies of each probe on each network's features, and on raw pixels.

    Args:
      networks: `student`, and any of the baselines.
      held_out: gives images and labels; strengths are chosen on `validation`.
      split: what is scored; probes are trained on `train`.
      batch_size: images embedded at a time.
      seed: of the linear probe.
      neighbours, temperature: see `knn.votes`.
      lars: options of `linear_probe.lars_accuracy`.
    Yields:
      `{linear,ridge,knn}/<pool>/accuracy` and the linear probe's `linear/<pool>/blr`, for
      baselines below `baselines/<row>/`; raw pixels have no pool, and are
      left out where they are too many for a fit. `chance` is the accuracy
      of always naming the commonest class, `count` the number of images.
    """
    parts = ("train", "validation", split)
    labels = [held_out.dataset.splits[part].labels for part in parts]
    sizes = dict(neighbours=neighbours, temperature=temperature)

    def probe(features: Sequence[np.ndarray], prefix: str, pool: str):
        labelled = map(Labelled, features, labels)
        splits = Splits(*labelled).checked(f"probes, {prefix}{pool.strip('/')}")
        found, blr = lars_accuracy(splits, **lars, seed=seed)
        yield f"{prefix}linear/{pool}accuracy", found
        yield f"{prefix}linear/{pool}blr", blr
        yield f"{prefix}ridge/{pool}accuracy", ridge_accuracy(splits)
        yield f"{prefix}knn/{pool}accuracy", knn_accuracy(splits, **sizes)

    for prefix, network in rows_of(networks, BASELINES).items():
        found = [embedded(network, held_out, part, batch_size) for part in parts]
        for pool in POOLS:
            yield from probe([features[pool] for features in found], prefix, f"{pool}/")
    images = [held_out.dataset.splits[part].images for part in parts]
    num_pixels = images[0][0].size
    if num_pixels < min(len(images[0]), MAX_PIXELS):
        pixels = [held_out.standardised(x).reshape(len(x), -1) for x in images]
        yield from probe(pixels, "baselines/raw_pixels/", "")
    else:
        print(
            f"probes: raw pixels are left out, {num_pixels:,} of them are too many for a "
            f"fit on {len(images[0]):,} images"
        )
    yield "chance", chance(labels[0], labels[-1])
    yield "count", len(labels[-1])
