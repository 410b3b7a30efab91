"""Linear separability: can an affine map predict each image's latents from the mixture's?

The targets are a frozen MAE teacher's latents of one image *alone*, under the same mask;
the inputs are a network's latents of the mixture. The position alone explains much of
either, so each position's mean over the train split is subtracted from both first.

`evaluate` measures a trained run with all baselines and controls. See `linear_separability`
for plain arrays and `mixture_separability` for any encoder.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from imae_jax.config.rules import text
from imae_jax.errors import require
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import Batch, HeldOut, latents_of_images
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.mixture_separability import mixture_separability
from imae_jax.evaluators.networks import BASELINES, Network, rows_of
from imae_jax.evaluators.separability_scores import TOKENS, Latents, measure
from imae_jax.evaluators.tables import Numbers, Results, Table, branch_rows, network_rows
from imae_jax.models.imae import IMAE
from imae_jax.objectives.mixing import BRANCHES
from imae_jax.probing.linear_separability import linear_separability

__all__ = ["EVALUATOR", "linear_separability", "mixture_separability"]

# Other runs that the run is compared with.
BASELINE_RUNS = ("without_distillation",)

RULES = {"teacher": text} | {f"baseline_runs.{name}": text for name in BASELINE_RUNS}


def rows(
    networks: Mapping[str, Network], batch: Batch, alpha: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the prefix and features [B, S, 1 + K, D or E] of each row of the table.

    A network without heads gives both branches the same features: its latents (output of
    `decoder_embed`) and, in a separate row, its tokens.
    """
    mixture = batch.mixture(alpha)
    for row, network in rows_of(networks, BASELINES).items():
        out = network.predict(mixture, batch.mask)
        if out["latents"].ndim == 4:
            yield row, out["latents"]
            continue
        for name, features in (
            (row, out["latents"]),
            (row.removesuffix("/") + TOKENS, out["tokens"]),
        ):
            yield name, np.stack([features] * len(BRANCHES), axis=1)


def latents_of(
    networks: Mapping[str, Network], batch: Batch, alphas: Sequence[float]
) -> Latents:
    """Returns every row's latents at every alpha, and the teacher's of each image alone."""
    valid = batch.valid
    features = {
        f"{at(alpha=alpha)}{row}": latents[valid]
        for alpha in alphas
        for row, latents in rows(networks, batch, alpha)
    }
    targets = latents_of_images(networks["teacher"], batch)
    return Latents(features, targets[valid], batch.position[valid])


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    alphas: Sequence[float],
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """Scores every row and branch, at `alpha` and over a sweep.

    Args:
      networks: `student` (an i-MAE), `teacher` (a MAE), and optionally the baselines
        `without_distillation` (an i-MAE) and `random` (a MAE with random weights).
      held_out: provides the mixtures.
      split: the split to score; the map is fitted on `train`, its ridge strength chosen on
        `validation`.
      alpha: weight of the subordinate image.
      alphas: weights of the sweep, whose metrics start with `alpha_<weight>/`.
      batch_size, seed: see `HeldOut.batches`.
    Yields:
      The metrics of `separability_scores.measure`; those of baselines start with
      `baselines/<row>/`.
    """

    weights = sorted({alpha, *alphas})

    def stream(part: str) -> Iterator[Latents]:
        part = split if part == "test" else part
        batches = held_out.batches(part, batch_size=batch_size, seed=seed)
        return (latents_of(networks, batch, weights) for batch in batches)

    own, swept = at(alpha=alpha), tuple(at(alpha=weight) for weight in alphas)
    for name, value in measure(stream, 1 + held_out.num_patches):
        if name.startswith(own):
            yield name.removeprefix(own), value
        if not name.startswith("alpha_") or name.startswith(swept):
            yield name, value


def check(section: ConfigDict, key: str, model: IMAE) -> None:
    """Raises UserError for an unknown baseline."""
    for name in section.get("baseline_runs") or ():
        allowed = f"one of {', '.join(BASELINE_RUNS)}"
        require(name in BASELINE_RUNS, f"{key}.baseline_runs", name, allowed)


def _main_table(numbers: Numbers, run: str) -> Table:
    keys = [
        f"separability/{{row}}{branch}/{metric}"
        for metric in ("r2", "cross_r2")
        for branch in BRANCHES
    ]
    keys.append("separability/{row}assignment_accuracy")
    return Table(
        "Linear separability",
        "R2 of the best linear map from a branch's latents of the mixture to what the "
        "teacher makes of that branch's image alone; what the position alone tells is "
        "taken out first. 1 is perfect, 0 is nothing. Cross: the same for the other image, "
        "where a branch that keeps to its own scores 0. Assignment accuracy: fraction of "
        "mixtures whose two latents are nearer to their own images' than exchanged.",
        (*BRANCHES, "cross, sub.", "cross, dom.", "assignment accuracy"),
        network_rows(numbers, run, keys),
        run=run,
        example=keys[0].format(row=""),
    )


def _control_table(numbers: Numbers, run: str) -> Table:
    metrics = {
        "linear map (as above)": "{branch}/r2",
        "linear map, positions not taken out": "{branch}/r2_uncentred",
        "position alone, not taken out": "position_only/{branch}/r2_uncentred",
        "latents as they are, no map": "{branch}/raw_r2",
        "linear map: squared distance M_ls": "{branch}/mse",
        "no map: squared distance": "{branch}/raw_mse",
    }
    return Table(
        "Linear separability: controls",
        "R2, and what is left in the end as squared distance per token and channel. "
        "Latents are told apart by their position to begin with, which is why a table "
        "that did not take it out would flatter every network.",
        BRANCHES,
        branch_rows(numbers, "separability", metrics),
        run=run,
        is_control=True,
        example=f"separability/{BRANCHES[0]}/r2",
    )


def tables(results: Results) -> Iterator[Table]:
    """Yields each run's table of R2 by row and branch, and its table of controls."""
    for run, numbers in results.items():
        yield _main_table(numbers, run)
        yield _control_table(numbers, run)


EVALUATOR = Evaluator(
    evaluate,
    RULES,
    check,
    tables,
    needs_mixtures=True,
    needs_teacher=True,
    chooses_on_validation=True,
    run_keys=("teacher", "baseline_runs"),
    without_alpha=("position_only/*",),
)
