"""Classification from a frozen encoder: linear probe, ridge probe and k-NN.

On whole, unmasked images without augmentation.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from imae_jax.config.rules import Rule, above, count_from
from imae_jax.errors import require
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network, rows_of
from imae_jax.evaluators.tables import Results, Table, labelled_rows, network_rows
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.probing.knn import knn_accuracy
from imae_jax.probing.lars_probe import lars_accuracy
from imae_jax.probing.linear_classifiers import Labelled, Splits, chance, ridge_accuracy

logger = logging.getLogger(__name__)

POOLS = ("class_token", "mean")
PROBES = ("linear", "ridge", "knn")

# With more raw pixels, fitting would take longer than all other probes together.
MAX_PIXELS = 4096

# Baseline rows: row name -> network name.
BASELINES = {
    "teacher": "teacher",
    "without_distillation": "without_distillation",
    "random": "random",
}


def embedded(
    network: Network, held_out: HeldOut, split: str, batch_size: int
) -> dict[str, np.ndarray]:
    """Returns a network's pooled features of a split's images, [N, D] by pool."""
    parts = [
        {pool: found[pool][valid] for pool in POOLS}
        for images, valid in held_out.images(split, batch_size=batch_size)
        for found in [network.embed(images)]
    ]
    return {pool: np.concatenate([part[pool] for part in parts]) for pool in POOLS}


# The keyword parameters are the keys of the evaluator's section.
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
    """Measures the accuracy of each probe on each network's features and on raw pixels.

    Args:
      networks: `student`, and optionally baselines.
      held_out: provides images and labels.
      split: the split to score; probes are trained on `train`, strengths chosen on
        `validation`.
      batch_size: images per batch.
      seed: random seed of the linear probe.
      neighbours, temperature: see `knn.votes`.
      lars: options of `lars_probe.lars_accuracy`.
    Yields:
      `{linear,ridge,knn}/<pool>/accuracy` and the chosen `linear/<pool>/blr`, baselines
      under `baselines/<row>/`. Raw pixels have no pool; they are left out if there are too
      many to fit. `chance` is the accuracy of always predicting the majority class, `count`
      the number of images.
    """
    parts = ("train", "validation", split)
    labels = [held_out.dataset.splits[part].labels for part in parts]
    sizes: dict[str, Any] = dict(neighbours=neighbours, temperature=temperature)

    def probe(
        features: Sequence[np.ndarray], prefix: str, pool: str
    ) -> Iterator[tuple[str, float]]:
        examples = map(Labelled, features, labels)
        splits = Splits(*examples).checked(f"probes, {prefix}{pool.strip('/')}")
        accuracy, blr = lars_accuracy(splits, **lars, seed=seed)
        yield f"{prefix}linear/{pool}accuracy", accuracy
        yield f"{prefix}linear/{pool}blr", blr
        yield f"{prefix}ridge/{pool}accuracy", ridge_accuracy(splits)
        yield f"{prefix}knn/{pool}accuracy", knn_accuracy(splits, **sizes)

    for prefix, network in rows_of(networks, BASELINES).items():
        found = [embedded(network, held_out, part, batch_size) for part in parts]
        for pool in POOLS:
            yield from probe([features[pool] for features in found], prefix, f"{pool}/")
    images = [held_out.dataset.splits[part].pixels for part in parts]
    num_pixels = images[0][0].size
    if num_pixels < min(len(images[0]), MAX_PIXELS):
        pixels = [held_out.normalized(x).reshape(len(x), -1) for x in images]
        yield from probe(pixels, "baselines/raw_pixels/", "")
    else:
        logger.info(
            f"probes: raw pixels are left out, {num_pixels:,} of them are too many for a "
            f"fit on {len(images[0]):,} images"
        )
    yield "chance", chance(labels[0], labels[-1])
    yield "count", len(labels[-1])


def check(section: ConfigDict, key: str, model: MAE | IMAE) -> None:
    """Raises UserError unless the linear probe's warm-up is shorter than its training."""
    lars, key = section.lars, f"{key}.lars.warmup_epochs"
    is_shorter = lars.warmup_epochs < lars.epochs
    require(is_shorter, key, lars.warmup_epochs, f"less than the {lars.epochs} epochs")


def tables(results: Results) -> Iterator[Table]:
    """Yields a table of accuracies of every probe and network, for each run."""
    columns = [(probe, pool) for pool in POOLS for probe in PROBES]
    for run, numbers in results.items():
        keys = [f"probes/{{row}}{probe}/{pool}/accuracy" for probe, pool in columns]
        pixels = [f"probes/baselines/raw_pixels/{probe}/accuracy" for probe, _ in columns]
        controls = {
            "raw pixels, no network": pixels,
            "the majority class": ["probes/chance"] * len(columns),
        }
        yield Table(
            "Class of whole images, from the frozen encoder",
            "Accuracy of MAE's linear probe (LARS), of ridge regression and of the nearest "
            "neighbours, on the class token and on the mean of the patch tokens; no mask, "
            "no mixture.",
            [f"{probe}, {pool.replace('_', ' ')}" for probe, pool in columns],
            network_rows(numbers, run, keys) + labelled_rows(numbers, controls),
            run=run,
            example=keys[0].format(row=""),
        )


RULES = {
    "neighbours": count_from(1),
    "temperature": above(0),
    "lars.blrs": Rule(
        lambda x: (
            isinstance(x, list | tuple) and len(x) > 0 and all(map(above(0).allows, x))
        ),
        "one or more finite numbers above 0",
    ),
    "lars.batch_size": count_from(1),
    "lars.epochs": count_from(1),
    "lars.warmup_epochs": count_from(0),
}

EVALUATOR = Evaluator(
    evaluate,
    RULES,
    check,
    tables,
    needs_labels=True,
    chooses_on_validation=True,
    without_alpha=("*",),
    without_mask_ratio=("*",),
)
