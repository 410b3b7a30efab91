"""Similarity to the teacher's representation (CKA), and effective rank of the latents."""

from collections.abc import Iterator, Mapping

import numpy as np

from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import Batch, HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.tables import (
    NETWORKS,
    Numbers,
    Results,
    Table,
    branches_of,
    labelled_rows,
    network_rows,
)
from imae_jax.models.branches import branch_names
from imae_jax.probing.ridge import Moments
from imae_jax.probing.similarity import effective_rank, linear_cka


def layers(network: Network, held_out: HeldOut, split: str, batch_size: int) -> np.ndarray:
    """Returns each image's mean patch token after each encoder block, [N, depth, D]."""
    parts = [
        network.embed(images)["layers"][valid]
        for images, valid in held_out.images(split, batch_size=batch_size)
    ]
    return np.concatenate(parts)


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """Measures CKA with the teacher, layer by layer, and effective ranks.

    Args:
      networks: `student`, `teacher`, and optionally `without_distillation` and `random`.
      held_out: provides images and mixtures.
      split, batch_size, seed: see `HeldOut.batches`.
      alpha: weight of the subordinate image.
    Yields:
      `cka/layer_<number>` and, for baselines, `baselines/<name>/cka/layer_<number>`: CKA
      with the teacher's layer of the same number, on whole single images.
      `effective_rank/<branch>` of the latents of mixtures and
      `baselines/teacher_on_image/effective_rank` of the teacher's latents of single images,
      over tokens centred by position.
    """
    target = layers(networks["teacher"], held_out, split, batch_size)
    for name in ("student", "without_distillation", "random"):
        if name not in networks:
            continue
        prefix = "" if name == "student" else f"baselines/{name}/"
        own = layers(networks[name], held_out, split, batch_size)
        for layer in range(min(own.shape[1], target.shape[1])):
            value = linear_cka(own[:, layer], target[:, layer])
            yield f"{prefix}cka/layer_{layer + 1:02d}", value
    moments: dict[str, Moments] = {}

    def add(name: str, latents: np.ndarray, batch: Batch) -> None:
        """Adds latents [B, 1 + K, E] to the moments of `name`."""
        tokens = latents[batch.valid].reshape(-1, latents.shape[-1])
        empty = Moments.zeros(1 + held_out.num_patches, latents.shape[-1], 0)
        position = batch.position[batch.valid].reshape(-1)
        moments.setdefault(name, empty).add(tokens, tokens[:, :0], position)

    for batch in held_out.batches(split, batch_size=batch_size, seed=seed):
        mixtures = networks["student"].predict(batch.mixture(alpha), batch.mask)["latents"]
        for s, branch in enumerate(branch_names(mixtures.shape[1])):
            add(f"effective_rank/{branch}", mixtures[:, s], batch)
        images = networks["teacher"].predict(batch.sources[:, 0], batch.mask)["latents"]
        add("baselines/teacher_on_image/effective_rank", images, batch)
    for name, found in moments.items():
        yield name, effective_rank(found.centred(*found.position_means()).zz)


def _layer_table(numbers: Numbers, run: str) -> Table:
    prefix = "representation/cka/"
    layers = sorted(key.removeprefix(prefix) for key in numbers if key.startswith(prefix))
    keys = [f"representation/{{row}}cka/{layer}" for layer in layers]
    return Table(
        "CKA with the teacher, layer by layer",
        "Debiased linear CKA of the mean patch token after each block, on whole images: 1 "
        "for representations that are equal up to rotation and scale, about 0 for "
        "independent ones.",
        [layer.replace("_", " ") for layer in layers],
        network_rows(numbers, run, keys),
        run=run,
        is_control=True,
        example=keys[0].format(row="") if keys else "",
    )


def _rank_table(numbers: Numbers, run: str) -> Table:
    key = "representation/effective_rank"
    branches = branches_of(numbers)
    labels = {f"{run}, {branch} branch": [f"{key}/{branch}"] for branch in branches}
    teacher = NETWORKS["teacher_on_image/"]
    labels[teacher] = ["representation/baselines/teacher_on_image/effective_rank"]
    return Table(
        "Effective rank of the latents",
        "The number of directions that they would fill evenly: exp of the entropy of their "
        "normalized singular values (as in RankMe), each position's mean subtracted.",
        ("effective rank",),
        labelled_rows(numbers, labels),
        run=run,
        is_control=True,
        example=f"{key}/subordinate",
    )


def tables(results: Results) -> Iterator[Table]:
    """Yields each run's tables of CKA by layer and of effective ranks."""
    for run, numbers in results.items():
        yield _layer_table(numbers, run)
        yield _rank_table(numbers, run)


EVALUATOR = Evaluator(
    evaluate,
    tables=tables,
    needs_mixtures=True,
    needs_teacher=True,
    without_alpha=("*cka/*", "baselines/teacher_on_image/*"),
    without_mask_ratio=("*cka/*",),
    definitions={
        "*cka/*": "debiased linear CKA, of centred features (Nguyen et al. 2021)",
        "*effective_rank*": "exp(entropy of normalized singular values), as in RankMe, of "
        "features centred by position",
    },
)
