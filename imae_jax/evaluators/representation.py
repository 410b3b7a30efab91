"""How alike two networks' representations are, and how many directions they use."""

from collections.abc import Iterator, Mapping

import numpy as np

from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.objectives.mixing import BRANCHES
from imae_jax.probing.ridge import Moments
from imae_jax.probing.similarity import effective_rank, linear_cka


def layers(network: Network, held_out: HeldOut, split: str, batch_size: int) -> np.ndarray:
    """Each image's mean patch token after each block, [N, depth, D]."""
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
    """CKA with the teacher layer by layer, and effective ranks.

    Args:
      networks: `student`, `teacher`, and any of `without_distillation` and `random`.
      held_out: gives images and mixtures.
      split, batch_size, seed: see `HeldOut.batches`.
      alpha: weight of the subordinate image.
    Yields:
      `cka/layer_<number>` and, for baselines, `baselines/<name>/cka/layer_<number>`: the
      network's layer beside the teacher's of the same number, on whole images alone, as
      far as both have one. `effective_rank/<branch>` of the latents of mixtures and
      `baselines/teacher_on_image/effective_rank` of the teacher's latents of images alone,
      over tokens, each position about its mean.
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

    def add(name, latents, batch):
        """Latents [B, 1 + K, E]."""
        tokens = latents[batch.valid].reshape(-1, latents.shape[-1])
        empty = Moments.zeros(1 + held_out.num_patches, latents.shape[-1], 0)
        position = batch.position[batch.valid].reshape(-1)
        moments.setdefault(name, empty).add(tokens, tokens[:, :0], position)

    for batch in held_out.batches(split, batch_size=batch_size, seed=seed):
        mixtures = networks["student"].predict(batch.mixture(alpha), batch.mask)["latents"]
        for s in range(mixtures.shape[1]):
            add(f"effective_rank/{BRANCHES[s]}", mixtures[:, s], batch)
        images = networks["teacher"].predict(batch.sources[:, 0], batch.mask)["latents"]
        add("baselines/teacher_on_image/effective_rank", images, batch)
    for name, found in moments.items():
        yield name, effective_rank(found.centred(*found.position_means()).zz)
