"""Encoders whose separability is known."""

import numpy as np

CODES = np.random.default_rng(7).integers(0, 256, (6, 2, 2, 3)).astype(np.float32)


def identity(images):
    return images.reshape(len(images), -1)


def mean_colour(images):
    return images.mean(axis=(1, 2))


def constant(images):
    return np.full((len(images), 4), 3.3, np.float32)


def unmix(images):
    """Finds the two codes of a mixture, or the one of an image, weaker first."""
    flat, codes = images.reshape(len(images), -1), CODES.reshape(len(CODES), -1)
    best, found = np.full(len(flat), np.inf), np.zeros((len(flat), 2), int)
    for weak in range(len(codes)):
        for strong in range(len(codes)):
            for alpha in (0.2, 0.3):
                mixed = alpha * codes[weak] + (1 - alpha) * codes[strong]
                error = np.square(flat - mixed).sum(axis=1)
                better = error < best - 1e-3
                best[better], found[better] = error[better], (weak, strong)
    return np.eye(len(codes))[found].reshape(len(flat), -1)


def crooked(images):
    return identity(images)[1:]


def failing(images):
    raise RuntimeError("no such\nlayer")


def bright_only_together(images):
    return identity(images * images[0, 0, 0, 0])
