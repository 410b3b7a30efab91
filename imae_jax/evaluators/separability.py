"""Linear separability: can an affine map predict each image's latents from the mixture's?

The targets are a frozen MAE teacher's latents of one image *alone*, under the same mask;
the inputs are a network's latents of the mixture. The position alone explains much of
either, so each position's mean over the train split is subtracted from both first. Every
score stands beside its null, pure superposition (`probing.superposition`).

`evaluate` measures a trained run with all baselines and controls. See `linear_separability`
for plain arrays and `mixture_separability` for any encoder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from imae_jax.config.rules import above, count_from, one_of, some_of, text, within
from imae_jax.errors import UserError, require
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import (
    Batch,
    HeldOut,
    latents_of_images,
    visible_pixels,
)
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.mixture_separability import mixture_separability
from imae_jax.evaluators.mlp_separability import measure_mlp
from imae_jax.evaluators.networks import BASELINES, Network, rows_of
from imae_jax.evaluators.separability_scores import TOKENS, Latents, Row, measure
from imae_jax.evaluators.tables import (
    Numbers,
    Results,
    Table,
    branch_rows,
    branches_of,
    cell,
    network_rows,
    short,
)
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.probing.linear_separability import linear_separability

__all__ = ["EVALUATOR", "linear_separability", "mixture_separability"]

# Other runs that the run is compared with.
BASELINE_RUNS = ("without_distillation",)

RULES = {
    "teacher": text,
    "map": one_of("linear", "mlp"),
    "targets": some_of("latents", "tokens"),
    "mlp.width": count_from(1),
    "mlp.epochs": count_from(1),
    "mlp.batch_size": count_from(1),
    "mlp.lr": above(0),
} | {f"baseline_runs.{name}": text for name in BASELINE_RUNS}

# At 0.5 the two images are exchangeable: no ordered R2 can pass 0.5.
ALPHA = within("(0, 0.5)")

# Ends the table's note where a mixture has more than two images.
OF_MORE = (
    " Gain of S images: all excesses together, over S - 1; cross: the largest of the other "
    "images'; exchanged: in any other order."
)

# Metrics that are too many to be repeated at every alpha of the sweep.
NOT_SWEPT = "/component_r2/"


def rows(
    networks: Mapping[str, Network], batch: Batch, alpha: float, patch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the prefix and features [B, S, 1 + K, D or E] of each row of the table.

    A network without heads gives both branches the same features: its latents (output of
    `decoder_embed`) and, in a separate row, its tokens. So do raw pixels, [.., P]. The run
    itself may be a MAE; its tokens' row is `own_tokens/`.
    """
    mixture = batch.mixture(alpha)
    for row, network in rows_of(networks, BASELINES).items():
        out = network.predict(mixture, batch.mask)
        if out["latents"].ndim == 4:
            yield row, out["latents"]
            continue
        for name, features in (
            (row, out["latents"]),
            ((row.removesuffix("/") or "own") + TOKENS, out["tokens"]),
        ):
            yield name, np.stack([features] * batch.num_sources, axis=1)
    pixels = visible_pixels(mixture, batch, patch_size)
    yield "baselines/raw_pixels/", np.stack([pixels] * batch.num_sources, axis=1)


def latents_of(
    networks: Mapping[str, Network],
    batch: Batch,
    alphas: Sequence[float],
    target: str,
    patch_size: int,
) -> Latents:
    """Returns every row's latents at every alpha, and the teacher's of each image alone.

    `target` names the teacher's output: `latents` [E] or `tokens` [D].
    """
    valid = batch.valid
    features: dict[Row, np.ndarray] = {
        (alpha, row): latents[valid]
        for alpha in alphas
        for row, latents in rows(networks, batch, alpha, patch_size)
    }
    targets = latents_of_images(networks["teacher"], batch, target)
    return Latents(features, targets[valid], batch.position[valid])


# Keyword options: the evaluator's section of a config.
def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    alphas: Sequence[float],
    batch_size: int,
    seed: int,
    # Runs of version 0.1.0 do not have these.
    map: str = "linear",
    targets: Sequence[str] = ("latents",),
    mlp: Mapping | None = None,
) -> Iterator[tuple[str, float]]:
    """Scores every row and branch, at `alpha` and over a sweep.

    Args:
      networks: `student` (an i-MAE or a MAE), `teacher` (a MAE), and optionally the
        baselines `without_distillation` (an i-MAE) and `random` (a MAE with random
        weights).
      held_out: provides the mixtures.
      split: the split to score; the map is fitted on `train`, its ridge strength chosen on
        `validation`.
      alpha: weight of the subordinate image, in (0, 0.5).
      alphas: weights of the sweep, whose metrics start with `alpha_<weight>/`.
      batch_size, seed: see `HeldOut.batches`.
      map: "linear", or "mlp" to fit an MLP at `alpha` besides.
      targets: the teacher's outputs that are predicted: "latents" [E], "tokens" [D].
      mlp: options of `mlp_map.fit_mlp`, but for the seed.
    Yields:
      The metrics of `separability_scores.measure` and, if asked for, of
      `mlp_separability.measure_mlp`. Those of baselines start with `baselines/<row>/`,
      those towards the teacher's tokens with `to_tokens/`.
    """

    def stream_of(
        weights: Sequence[float], target: str
    ) -> Callable[[str], Iterator[Latents]]:
        def stream(part: str) -> Iterator[Latents]:
            part = split if part == "test" else part
            for batch in held_out.batches(part, batch_size=batch_size, seed=seed):
                yield latents_of(networks, batch, weights, target, held_out.patch_size)

        return stream

    num_positions = 1 + held_out.num_patches
    for target in targets:
        prefix = "" if target == "latents" else f"to_{target}/"
        scores = measure(stream_of(sorted({alpha, *alphas}), target), num_positions)
        for weight, name, value in scores:
            if weight in (alpha, None):
                yield prefix + name, value
            if weight in alphas and NOT_SWEPT not in name:
                yield at(alpha=weight) + prefix + name, value
        if map == "mlp":
            assert mlp is not None, "see `check`"
            options = {**mlp, "seed": seed}
            stream = stream_of([alpha], target)
            for _, name, value in measure_mlp(stream, num_positions, options):
                yield prefix + name, value


def check(section: ConfigDict, key: str, model: MAE | IMAE) -> None:
    """Raises UserError for an unknown baseline, and for images of equal weight."""
    for name in section.get("baseline_runs") or ():
        allowed = f"one of {', '.join(BASELINE_RUNS)}"
        require(name in BASELINE_RUNS, f"{key}.baseline_runs", name, allowed)
    allowed = f"{ALPHA.allowed}: at 0.5 nothing tells which image is which"
    require(ALPHA.allows(section.alpha), f"{key}.alpha", section.alpha, allowed)
    for alpha in section.alphas:
        require(ALPHA.allows(alpha), f"{key}.alphas", alpha, allowed)
    if "targets" in section:
        allowed = "with 'latents', which the tables show"
        require("latents" in section.targets, f"{key}.targets", section.targets, allowed)
    if section.get("map") == "mlp" and not section.get("mlp"):
        raise UserError(f"{key}.map is 'mlp', but {key}.mlp is missing: its options")


def _null_row(numbers: Numbers, metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns the row of pure superposition; none for runs of version 0.1.0."""
    keys = {branch: f"separability/{branch}/r2_null" for branch in branches_of(numbers)}
    if not numbers.keys() >= set(keys.values()):
        return []
    values: dict[str, float | None] = dict.fromkeys(metrics) | {"gain": 0.0}
    for branch, key in keys.items():
        values |= {f"{branch}/r2": numbers[key], f"{branch}/excess": 0.0}
        others = [numbers[other] for other in keys.values() if other != key]
        values[f"{branch}/cross_r2"] = max(others)
    return [("superposition (null)", [cell(values[name]) for name in metrics])]


def _main_table(numbers: Numbers, run: str) -> Table:
    columns, branches = {"gain": "gain"}, branches_of(numbers)
    for branch in branches:
        columns |= {f"{branch}/r2": f"R2, {short(branch)}", f"{branch}/excess": "excess"}
    for branch in branches:
        columns[f"{branch}/cross_r2"] = f"cross, {short(branch)}"
    columns["assignment_accuracy"] = "assignment"
    keys = [f"separability/{{row}}{name}" for name in columns]
    return Table(
        "Linear separability",
        "R2 of the best linear map from a branch's latents of the mixture to the teacher's "
        "latents of that branch's image alone, each position's mean subtracted first: 1 is "
        "perfect, 0 is nothing. Superposition, the sum of two images that nothing "
        "separates, already explains most of the dominant one. Excess: R2 less that; gain: "
        "both excesses together. A gain of 0 is superposition, or one image at the cost "
        "of the other. Cross: the same for the other image, where a branch that keeps to "
        "its own scores 0. Assignment: fraction of mixtures whose two latents are "
        "nearer to their own images' than exchanged; high for raw pixels, too."
        + (OF_MORE if len(branches) > 2 else ""),
        list(columns.values()),
        _null_row(numbers, list(columns)) + network_rows(numbers, run, keys),
        run=run,
        example="separability/subordinate/r2",
    )


def _component_table(numbers: Numbers, run: str) -> Table:
    metrics = {"component_r2": "by component", "mlp_r2": "by MLP"}
    columns = {
        f"separability/{{row}}{branch}/{metric}": f"{branch}, {name}"
        for metric, name in metrics.items()
        for branch in branches_of(numbers)
        if f"separability/{branch}/{metric}" in numbers
    }
    return Table(
        "Linear separability: every component, and beyond linear",
        "By component: mean R2 of the principal components that hold 95 % of the "
        "teacher's variance, each counting the same, where R2 is decided by the few "
        "largest. By MLP: R2 of a small MLP in place of the linear map, which can unmix "
        "by itself: raw pixels and random tokens show how much.",
        list(columns.values()),
        network_rows(numbers, run, list(columns)),
        run=run,
        is_control=True,
        example="separability/subordinate/r2",
    )


def _control_table(numbers: Numbers, run: str) -> Table:
    metrics = {
        "linear map (as above)": "{branch}/r2",
        "linear map, positions not taken out": "{branch}/r2_uncentred",
        "position alone, not taken out": "position_only/{branch}/r2_uncentred",
        "latents as they are, no map, positions not taken out": "{branch}/raw_r2",
        "linear map: squared distance M_ls": "{branch}/mse",
        "no map: squared distance": "{branch}/raw_mse",
    }
    return Table(
        "Linear separability: controls",
        "R2, and what is left in the end as squared distance per token and channel. "
        "Latents are told apart by their position to begin with, which is why a table "
        "that did not take it out would flatter every network.",
        branches_of(numbers),
        branch_rows(numbers, "separability", metrics),
        run=run,
        is_control=True,
        example="separability/subordinate/r2",
    )


def tables(results: Results) -> Iterator[Table]:
    """Yields each run's table of R2 by row and branch, and its tables of controls."""
    for run, numbers in results.items():
        yield _main_table(numbers, run)
        yield _component_table(numbers, run)
        yield _control_table(numbers, run)


EVALUATOR = Evaluator(
    evaluate,
    RULES,
    check,
    tables,
    needs_teacher=True,
    chooses_on_validation=True,
    run_keys=("teacher", "baseline_runs"),
    without_alpha=("position_only/*",),
)
