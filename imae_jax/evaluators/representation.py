"""How alike two networks' representations are, and how many directions they use."""

from collections.abc import Iterator, Mapping

import numpy as np

from imae_jax.errors import UserError
from imae_jax.evaluators.inputs import HeldOut, Network
from imae_jax.evaluators.linear import Moments
from imae_jax.mixing import BRANCHES


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of [N, D1] and [N, D2] features, in [0, 1].

    ||Y'X||^2 / (||X'X|| ||Y'Y||) after centring (Kornblith et al. 2019): 1 for features
    that are equal up to rotation and scale.
    """
    x, y = (np.asarray(a, np.float64) - np.mean(a, axis=0) for a in (x, y))
    both = np.square(y.T @ x).sum()
    return float(both / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def effective_rank(covariance: np.ndarray) -> float:
    """exp of the entropy of a [D, D] covariance's normalised eigenvalues, in [1, D].

    Roy and Vetterli 2007, on variances: D for white features, 1 where a single direction
    varies.

    Raises:
      UserError: for numbers that are not finite.
    """
    if not np.isfinite(covariance).all():
        raise UserError("effective rank: features are not finite (NaN or inf)")
    values = np.maximum(np.linalg.eigvalsh(covariance), 0)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


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
