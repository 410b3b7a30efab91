"""Networks of known answers: they recognise a mixture and say what it was made of."""

import numpy as np

from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.models.patches import patchify


def held_out(dataset, *, mask_ratio=0.5, norm_pix=False, num_sources=2):
    """Mixtures of 8x8 digits in 2x2 patches."""
    return HeldOut(
        dataset=dataset,
        patch_size=2,
        num_patches=16,
        mask_ratio=mask_ratio,
        norm_pix=norm_pix,
        num_sources=num_sources,
    )


def student(made, alphas, latents=None, pred=None, seed=0):
    """An i-MAE that knows its mixtures' sources and labels.

    `latents` and `pred` are functions of (sources [B, S, H, W, C], labels [B, S]) that
    give [B, S, E], the same for every token, and patches [B, S, L, P].
    """
    known = {}
    for split in made.dataset.splits:
        for batch in made.batches(split, batch_size=made.count(split), seed=seed):
            for alpha in alphas:
                mixtures = batch.mixture(alpha)
                for i, mixture in enumerate(mixtures):
                    known[mixture.tobytes()] = batch.sources[i], batch.labels[i]

    def predict(images, mask):
        found = [known[np.asarray(image).tobytes()] for image in images]
        sources, labels = (np.stack(parts) for parts in zip(*found, strict=True))
        out = {}
        if latents is not None:
            tokens = mask.ids_keep.shape[1] + 1
            out["latents"] = np.stack([latents(sources, labels)] * tokens, axis=2)
        out["pred"] = (pred or patches)(sources, labels)
        return out

    return Network(predict=predict, embed=None)


def patches(sources, labels):
    """The sources' own patches: a perfect reconstruction."""
    return np.asarray(patchify(sources, 2))


def one_hot(sources, labels):
    """Each branch knows its own image's class."""
    return np.eye(10, dtype=np.float32)[labels]


def teacher():
    """A MAE of which each latent is all that is visible of the image; it embeds pixels."""

    def predict(images, mask):
        cut = np.asarray(patchify(images, 2))
        seen = np.where(np.asarray(mask.mask)[..., None], 0, cut)
        tokens = mask.ids_keep.shape[1] + 1
        latents = np.stack([seen.reshape(len(seen), -1)] * tokens, axis=1)
        return {"latents": latents, "tokens": latents, "pred": cut}

    def embed(images):
        flat = np.asarray(images).reshape(len(images), -1)
        return {
            "class_token": flat[:, :8],
            "mean": flat,
            "layers": np.stack([flat, flat**2], axis=1),
        }

    return Network(predict=predict, embed=embed)
