"""Linear separability: does an affine map take a mixture's latents to each image's own?

The target is what a frozen MAE teacher makes of one image *alone*, under the same mask;
the input is what a network makes of the mixture. A position says much by itself, so the
train split's mean of each position is subtracted from both first.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from imae_jax.evaluators.mixtures import HeldOut, Predict
from imae_jax.mixing import BRANCHES, Mixtures

# Ridge strengths tried on the validation split, relative to the inputs' mean variance.
RIDGES = tuple(10.0**power for power in range(-8, 2))

# Rows beside the i-MAE's own, and the network each shows the mixture to.
BASELINES = {
    "without_distillation": "without_distillation",
    "mae_on_mixture": "teacher",
    "random": "random",
}


@dataclasses.dataclass
class Moments:
    """Sums over tokens that a least-squares fit and its score need, in float64.

    Attributes:
      count: [positions] tokens seen at each position.
      z, h: [positions, D] and [positions, E] sums of inputs and targets.
      zz, zh: [D, D] and [D, E] sums of products.
      hh: [E] sum of squared targets.
    """

    count: np.ndarray
    z: np.ndarray
    h: np.ndarray
    zz: np.ndarray
    zh: np.ndarray
    hh: np.ndarray

    @classmethod
    def zeros(cls, positions: int, inputs: int, outputs: int) -> "Moments":
        """Nothing seen yet."""
        shapes = (
            (positions,),
            (positions, inputs),
            (positions, outputs),
            (inputs, inputs),
            (inputs, outputs),
            (outputs,),
        )
        return cls(*(np.zeros(shape) for shape in shapes))

    def add(self, z: np.ndarray, h: np.ndarray, position: np.ndarray) -> None:
        """Adds tokens: z [N, D], h [N, E], position [N] int."""
        z, h = z.astype(np.float64), h.astype(np.float64)
        at_position = (position == np.arange(len(self.count))[:, None]).astype(np.float64)
        self.count += at_position.sum(axis=1)
        self.z += at_position @ z
        self.h += at_position @ h
        self.zz += z.T @ z
        self.zh += z.T @ h
        self.hh += np.square(h).sum(axis=0)

    def centred(self, mean_z: np.ndarray, mean_h: np.ndarray) -> "Moments":
        """The moments of z - mean_z and h - mean_h, means given per position."""
        n = self.count[:, None]

        def cross(sum_a, mean_a, sum_b, mean_b):
            return sum_a.T @ mean_b + mean_a.T @ sum_b - (n * mean_a).T @ mean_b

        return Moments(
            count=self.count,
            z=self.z - n * mean_z,
            h=self.h - n * mean_h,
            zz=self.zz - cross(self.z, mean_z, self.z, mean_z),
            zh=self.zh - cross(self.z, mean_z, self.h, mean_h),
            hh=self.hh - (2 * self.h * mean_h - n * mean_h**2).sum(axis=0),
        )

    def position_means(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean input and target of each position."""
        n = np.maximum(self.count, 1)[:, None]
        return self.z / n, self.h / n


def fit_ridge(moments: Moments, ridge: float) -> np.ndarray:
    """W [D, E] minimising ||z W - h||^2 + penalty ||W||^2.

    The penalty is `ridge` times the mean over channels of z's squared norm.
    """
    width = len(moments.zz)
    penalty = ridge * max(np.trace(moments.zz) / width, np.finfo(np.float64).tiny)
    return np.linalg.solve(moments.zz + penalty * np.eye(width), moments.zh)


def mean_squared_error(moments: Moments, weights: np.ndarray) -> float:
    """M_ls: mean of (z W - h)^2 over tokens and channels."""
    explained = 2 * np.vdot(weights, moments.zh)
    total = np.vdot(weights, moments.zz @ weights) - explained + moments.hh.sum()
    return float(total / (moments.count.sum() * moments.hh.size))


def score(train: Moments, validation: Moments, test: Moments) -> dict[str, float]:
    """Fits on train, chooses the ridge on validation, scores on test; all centred.

    Returns:
      `mse` (M_ls) and `r2` = 1 - M_ls / Var(h), both on test.
    """
    means = train.position_means()
    train, validation, test = (m.centred(*means) for m in (train, validation, test))
    maps = [fit_ridge(train, ridge) for ridge in RIDGES]
    weights = min(maps, key=lambda w: mean_squared_error(validation, w))
    error = mean_squared_error(test, weights)
    variance = test.hh.sum() / (test.count.sum() * test.hh.size)
    return {"mse": error, "r2": float(1 - error / variance)}


def rows(
    networks: Mapping[str, Predict], mixtures: Mixtures
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each row of the table: its prefix and its features [B, S, 1 + K, D or E].

    A network without heads offers one embedding to both branches: what its
    `decoder_embed` gives and, as a row of its own, its tokens.
    """
    out = networks["student"](mixtures.mixture, mixtures.mask)
    yield "", out["latents"]
    for baseline, network in BASELINES.items():
        if network not in networks:
            continue
        out = networks[network](mixtures.mixture, mixtures.mask)
        if out["latents"].ndim == 4:
            yield f"baselines/{baseline}/", out["latents"]
            continue
        for suffix, features in (("", out["latents"]), ("_tokens", out["tokens"])):
            both = np.stack([features] * len(BRANCHES), axis=1)
            yield f"baselines/{baseline}{suffix}/", both


def add_batch(
    moments: dict[str, Moments],
    networks: Mapping[str, Predict],
    mixtures: Mixtures,
    valid: np.ndarray,
) -> None:
    """Adds a batch of mixtures to the moments of every row and branch."""
    targets = [
        networks["teacher"](mixtures.sources[:, s], mixtures.mask)["latents"]
        for s in range(len(BRANCHES))
    ]
    ids_keep = np.asarray(mixtures.mask.ids_keep)[valid]
    # Position 0 is the class token's.
    position = np.pad(ids_keep + 1, ((0, 0), (1, 0))).reshape(-1)
    num_positions = 1 + mixtures.mask.mask.shape[1]
    for prefix, features in rows(networks, mixtures):
        for s in range(features.shape[1]):
            z = features[valid, s].reshape(-1, features.shape[-1])
            h = targets[s][valid].reshape(-1, targets[s].shape[-1])
            empty = Moments.zeros(num_positions, z.shape[1], h.shape[1])
            moments.setdefault(prefix + BRANCHES[s], empty).add(z, h, position)


def evaluate(
    networks: Mapping[str, Predict],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """Scores every row and branch.

    Args:
      networks: `student` (an i-MAE) and `teacher` (a MAE), and any of the baselines
        `without_distillation` (an i-MAE) and `random` (a MAE of random weights).
      held_out: makes the mixtures.
      split: what is scored; the map is fitted on `train`, its ridge on `validation`.
      alpha: weight of the subordinate image.
      batch_size, seed: see `HeldOut.mixtures`.
    Yields:
      `mse` and `r2` below `<branch>` and `baselines/<row>/<branch>`.
    """
    by_split = []
    for part in ("train", "validation", split):
        moments: dict[str, Moments] = {}
        for mixtures, valid in held_out.mixtures(
            part, alpha=alpha, batch_size=batch_size, seed=seed
        ):
            add_batch(moments, networks, mixtures, valid)
        by_split.append(moments)
    for name in by_split[0]:
        scores = score(*(moments[name] for moments in by_split))
        for metric, value in scores.items():
            yield f"{name}/{metric}", value
