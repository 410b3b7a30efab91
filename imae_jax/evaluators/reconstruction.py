"""Reconstruction error on masked patches, relative to predicting the mean train image."""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from imae_jax.errors import require
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.tables import (
    Numbers,
    Results,
    Table,
    branches_of,
    cell,
    labelled_rows,
)
from imae_jax.models.branches import branch_names
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.objectives.losses import masked_patch_error, target_patches

CHUNK = 1000  # images normalized at a time


def mean_target(held_out: HeldOut) -> np.ndarray:
    """Returns the mean of the train split's target patches, [L, P]."""
    images = held_out.dataset.splits["train"].pixels
    total = np.zeros(())
    for start in range(0, len(images), CHUNK):
        part = held_out.normalized(images[start : start + CHUNK])
        patches = target_patches(part, held_out.patch_size, held_out.norm_pix)
        total = total + np.asarray(patches, np.float64).sum(axis=0)
    return (total / len(images)).astype(np.float32)


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    batch_size: int,
    seed: int,
    alpha: float | None = None,
) -> Iterator[tuple[str, float]]:
    """Measures the squared error on masked patches, in normalized units, per branch.

    Args:
      networks: `student`, a MAE or an i-MAE.
      held_out: provides the mixtures.
      split, batch_size, seed: see `HeldOut.batches`.
      alpha: weight of the subordinate image; None for a MAE, on single images.
    Yields:
      `mse`, `mse_train_mean` (error of the mean train image) and their `ratio`, for
      mixtures under each branch's name.
    """
    mean = mean_target(held_out)
    sums = {"mse": 0.0, "mse_train_mean": 0.0}
    count = 0
    predict = networks["student"].predict
    for batch in held_out.batches(split, batch_size=batch_size, seed=seed):
        if alpha is None:
            images, mask = batch.sources[:, 0], batch.mask.mask
            pred = predict(images, batch.mask)["pred"]
        else:
            pred = predict(batch.mixture(alpha), batch.mask)["pred"]
            images, mask = batch.sources[:, : pred.shape[1]], batch.mask.mask[:, None]
        target = target_patches(images, held_out.patch_size, held_out.norm_pix)
        for name, guess in (
            ("mse", pred),
            ("mse_train_mean", jnp.broadcast_to(mean, target.shape)),
        ):
            each = np.asarray(masked_patch_error(guess, target, mask), np.float64)
            sums[name] = sums[name] + each[batch.valid].sum(axis=0)
        count += batch.valid.sum()
    errors = {name: np.atleast_1d(total) / count for name, total in sums.items()}
    for s, branch in enumerate(branch_names(len(errors["mse"]))):
        prefix = "" if alpha is None else f"{branch}/"
        for name, error in errors.items():
            yield f"{prefix}{name}", float(error[s])
        yield f"{prefix}ratio", float(errors["mse"][s] / errors["mse_train_mean"][s])


def check(section: ConfigDict, key: str, model: MAE | IMAE) -> None:
    """Raises UserError unless `alpha` is set for an i-MAE and absent for a MAE."""
    alpha = section.get("alpha")
    is_possible = model.is_fed_mixtures == (alpha is not None)
    require(is_possible, f"{key}.alpha", alpha, "a weight for an i-MAE, absent for a MAE")


def _table(results: Results, title: str, targets: Mapping[str, str]) -> Table:
    """Makes a table of errors, one row per run.

    Args:
      targets: metric prefix -> column head.
    """
    rows: list[tuple[str, list[str]]] = []
    last = None
    for run, numbers in results.items():
        means = [numbers.get(f"reconstruction/{x}mse_train_mean") for x in targets]
        # Before the runs that are relative to it.
        if any(mean is not None for mean in means) and means != last:
            pairs = [(mean, None if mean is None else 1.0) for mean in means]
            cells = [cell(value) for pair in pairs for value in pair]
            rows.append(("the mean training image", cells))
            last = means
        keys = [f"reconstruction/{x}{name}" for x in targets for name in ("mse", "ratio")]
        rows += labelled_rows(numbers, {run: keys})
    return Table(
        title,
        "Squared error on masked patches, in the units that were predicted (the data set's "
        "variance; with loss.norm_pix each patch's own), and its ratio to the error of the "
        "mean training image. Lower is better.",
        [head for target in targets.values() for head in (target, "ratio")],
        rows,
        example=f"reconstruction/{next(iter(targets))}mse",
    )


def tables(results: Results) -> Iterator[Table]:
    """Yields a table of MAE runs, on single images, and one of i-MAE runs, on mixtures."""
    yield _table(results, "Reconstruction of one image", {"": "error"})
    by_count: dict[int, dict[str, Numbers]] = {}
    for run, numbers in results.items():
        by_count.setdefault(len(branches_of(numbers)), {})[run] = numbers
    for count, found in sorted(by_count.items()):
        targets = {f"{branch}/": branch for branch in branch_names(count)}
        images = "both images" if count == 2 else f"all {count} images"
        yield _table(found, f"Reconstruction of {images} from their mixture", targets)


EVALUATOR = Evaluator(evaluate, check=check, tables=tables)
