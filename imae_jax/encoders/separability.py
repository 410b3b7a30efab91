"""Separability of mixtures by any encoder: `imae_jax.separability`."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imae_jax.encoders.encoder import Encoder
from imae_jax.encoders.mixture_stream import (
    FEATURES,
    RAW,
    Features,
    LazyImages,
    MixtureStream,
)
from imae_jax.encoders.result import Row, Score, Separability
from imae_jax.encoders.spec import open_encoder
from imae_jax.errors import UserError, require
from imae_jax.evaluators.separability_scores import Latents, targets_of
from imae_jax.models.branches import PAIR, branch_names
from imae_jax.probing import ridge
from imae_jax.probing.arrays import as_count, as_number, as_pixels
from imae_jax.probing.linear_separability import VALIDATION_SHARE
from imae_jax.probing.ridge import AffineMap, Moments
from imae_jax.probing.similarity import effective_rank
from imae_jax.probing.superposition import gain

logger = logging.getLogger(__name__)

ALPHAS = (0.1, 0.2, 0.3, 0.4)
OWN, PIXELS = "own", "pixels"
TEST_SHARE = 0.25  # of the images, without test images
NUM_SAMPLES = 1000  # of the bootstrap
INTERVAL = (2.5, 97.5)  # percentiles
MIN_IMAGES = 10
# Features are constant if they deviate from their mean by less than this fraction of it,
# which is what float32 rounds.
CONSTANT = 1e-6

Images = np.ndarray | LazyImages
AnyEncoder = str | Encoder | Callable[[np.ndarray], Any]


def separability(
    encoder: AnyEncoder | Sequence[AnyEncoder] | Mapping[str, AnyEncoder],
    images: Images,
    *,
    test_images: Images | None = None,
    alphas: Sequence[float] = ALPHAS,
    target: AnyEncoder = OWN,
    features: str = "pooled",
    controls: bool = True,
    batch_size: int = 64,
    seed: int = 0,
) -> Separability:
    """Measures how well features of mixtures linearly predict features of each image alone.

    Args:
      encoder: an address such as "timm:resnet50" (see `spec.KINDS`), an `Encoder`, or a
        function as in `mixture_separability`; several in a list, or in a dict by name.
      images: [N, H, W, C] numbers in 0..255, or `LazyImages`. They are paired at random;
        each pair makes two mixtures at every alpha.
      test_images: images to score on, of the same shape; by default, a random quarter of
        `images`. A random fifth of the others chooses the ridge strength.
      alphas: weights of the subordinate image, in (0, 0.5).
      target: the features to predict: "own", of each encoder; "pixels", as averaged as the
        control `raw pixels`; or an encoder.
      features: "pooled", the mean over patches, or "tokens", centred by position.
      controls: False leaves out superposition, raw pixels, random features and the
        untrained encoder.
      batch_size: images per call of an encoder.
      seed: random seed of splits, pairs and bootstrap.
    Raises:
      UserError: for numbers out of range, for images or features of a wrong shape or type
        or that are not finite, for fewer than 10 images to fit or to test, for an encoder
        that cannot be opened, is constant, not deterministic or does not treat images
        independently, and for two encoders of one name.
    """
    alphas = _alphas(alphas)
    require(features in FEATURES, "features", features, f"one of {', '.join(FEATURES)}")
    batch_size, seed = as_count(batch_size, "batch_size", 2), as_count(seed, "seed", 0)
    is_bool = isinstance(controls, bool | np.bool_)
    require(is_bool, "controls", controls, "True or False")
    encoders = _encoders(encoder)
    common = None if target in (OWN, PIXELS) else as_encoder(target, "target")
    if common is not None:
        text = "an encoder of single images; this one has two branches, of mixtures"
        require(not common.branches, "target", common.name, text)
    splits = _splits(images, test_images, seed)
    rows: list[Row] = []
    for one in encoders:
        is_own = common is None and target == OWN
        text = "a common one for an encoder with two branches, of mixtures"
        require(not (is_own and one.branches), "target", OWN, text)
        encode = Features(one, features)
        towards = encode if is_own else None
        if common is not None:
            towards = Features(common, features)
        untrained = one.untrained() if controls and one.untrained else None
        random = Features(untrained, features) if untrained else None
        options = (splits, alphas, batch_size, seed)
        stream = MixtureStream(encode, towards, random, *options, controls=controls)
        name = common.name if common is not None else str(target)
        rows += _measured(stream, name, alphas, seed)
    counts = {name: len(part) for name, part in splits.items()}
    return Separability(rows, features, counts, splits["test"].shape[1:])


def as_encoder(given: AnyEncoder, name: str) -> Encoder:
    """Returns an encoder of an address, a function, or an `Encoder`.

    Raises:
      UserError: if it is none of these, or cannot be opened.
    """
    if isinstance(given, str):
        return open_encoder(given)
    if isinstance(given, Encoder):
        return given
    if not callable(given):
        raise UserError(
            f"{name} is {type(given).__name__}; it must be an address such as "
            "'timm:resnet50', a function or an Encoder"
        )
    return Encoder(getattr(given, "__name__", name), given)


def _encoders(given: Any) -> list[Encoder]:
    """Returns encoders of distinct names."""
    if isinstance(given, Mapping):
        found = []
        for name, one in given.items():
            opened = as_encoder(one, f"encoder[{name!r}]")
            found.append(dataclasses.replace(opened, name=str(name)))
    elif isinstance(given, list | tuple):
        found = [as_encoder(one, f"encoder[{i}]") for i, one in enumerate(given)]
    else:
        found = [as_encoder(given, "encoder")]
    if not found:
        raise UserError("encoder is empty; at least one is needed")
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"encoder: two are named {twice[0]!r}; give a dict, with names of your own"
        )
    return found


def _alphas(given: Any) -> list[float]:
    allowed = "one or more numbers in (0, 0.5): at 0.5 nothing tells which image is which"
    values = [given] if isinstance(given, int | float) else given
    is_list = isinstance(values, list | tuple | np.ndarray) and len(values) > 0
    require(is_list, "alphas", given, allowed)
    found = [as_number(x, "alphas", allowed, lambda x: 0 < x < 0.5) for x in values]
    return sorted(set(found))


def _splits(images: Images, test_images: Images | None, seed: int) -> dict[str, Images]:
    """Returns the images of `train`, `validation` and `test`."""

    def checked(given: Any, name: str) -> Images:
        return given if isinstance(given, LazyImages) else as_pixels(given, name)

    whole = checked(images, "images")
    order = np.random.default_rng(seed).permutation(len(whole))
    if test_images is None:
        count = max(1, round(len(whole) * TEST_SHARE))
        test: Images = _part(whole, order[:count])
        order = order[count:]
    else:
        test = checked(test_images, "test_images")
        if test.shape[1:] != whole.shape[1:]:
            raise UserError(
                f"images are {list(whole.shape)}, test_images {list(test.shape)}; the "
                "images must be of one shape"
            )
    if min(len(order), len(test)) < MIN_IMAGES:
        raise UserError(
            f"{len(order)} images to fit and {len(test)} to test are too few: at least "
            f"{MIN_IMAGES} of each are needed"
        )
    first = round(len(order) * (1 - VALIDATION_SHARE))
    return {
        "train": _part(whole, order[:first]),
        "validation": _part(whole, order[first:]),
        "test": test,
    }


def _part(images: Images, indices: np.ndarray) -> LazyImages:
    """Returns the images at `indices`, not copied."""
    shape = (len(indices), *images.shape[1:])
    return LazyImages(shape, lambda places: images[indices[places]])


def _measured(
    stream: MixtureStream, target: str, alphas: Sequence[float], seed: int
) -> list[Row]:
    """Fits on `train` and `validation`, scores on `test`; a row for each control."""
    encoder = stream.encode.encoder
    train, validation = (_moments(stream(x)) for x in ("train", "validation"))
    for key, moments in train.items():
        if not key[1]:
            _check_varies(encoder.name, moments[0], stream.origins[""])
    maps = {key: _fit(encoder.name, train[key], validation[key]) for key in train}
    errors: dict = {key: [] for key in maps}
    for latents in stream("test"):
        for key in latents.features:
            errors[key].append(_errors(latents, key, maps[key]))
    rows = []
    if stream.controls and (alphas[0], RAW) not in maps:
        logger.warning(f"{encoder.name}: no control of pixels: its tokens form no grid")
    for control in dict.fromkeys(name for _, name in maps):
        centred = train[alphas[0], control][0]
        centred = centred.centred(*centred.position_means())
        covariance = centred.zz / centred.count.sum()
        scores = []
        for alpha in alphas:
            found = np.concatenate(errors[alpha, control])
            scores.append(_score(alpha, found, encoder.name, seed))
        std, rank = math.sqrt(np.trace(covariance) / len(covariance)), float("nan")
        if std > 0:
            rank = effective_rank((covariance + covariance.T) / 2)
        fixed = encoder.shown, str(encoder.preprocessing), target, len(covariance)
        rows.append(Row(encoder.name, control, *fixed, std, rank, scores))
    return rows


def _moments(stream: Iterable[Latents]) -> dict:
    """Returns the moments, one for each branch, of features with both images' targets."""
    found: dict = {}
    for latents in stream:
        for key, features in latents.features.items():
            for s in range(features.shape[1]):
                z, h, position = latents.tokens(key, s)
                own = found.setdefault(key, [])
                if len(own) == s:
                    size = latents.position.shape[1], z.shape[1], h.shape[1]
                    own.append(Moments.zeros(*size))
                own[s].add(z, h, position)
    return found


def _check_varies(name: str, moments: Moments, origin: np.ndarray) -> None:
    """Raises UserError if an encoder gives the same features for every image."""
    centred = moments.centred(*moments.position_means())
    variance = np.trace(centred.zz) / moments.count.sum()
    if not variance > CONSTANT**2 * np.square(origin).sum():
        raise UserError(
            f"encoder {name} is constant: it gives the same features for every image"
        )


def _fit(name: str, train: list[Moments], validation: list[Moments]) -> list[AffineMap]:
    """Returns the map to each image's targets, from its branch if there are two."""
    return [
        ridge.fit(
            targets_of(train[s % len(train)], s, PAIR),
            targets_of(validation[s % len(train)], s, PAIR),
            what=f"{name}, {branch}",
        )
        for s, branch in enumerate(branch_names(PAIR))
    ]


def _errors(latents: Latents, key: tuple[float, str], maps: list[AffineMap]) -> np.ndarray:
    """Returns the squared error and squared target of each mixture and image, [B, S, 2]."""
    features, targets = latents.features[key], latents.targets
    found = np.empty((*targets.shape[:2], 2))
    position = latents.position.reshape(-1)
    for s, own in enumerate(maps):
        z, _, _ = latents.tokens(key, s % features.shape[1])
        h = targets[:, s].reshape(-1, targets.shape[-1])
        for i, rest in enumerate((own(z, position) - h, own.mean_h[position] - h)):
            found[:, s, i] = np.square(rest).reshape(len(targets), -1).sum(axis=1)
    return found


def _score(alpha: float, errors: np.ndarray, name: str, seed: int) -> Score:
    """Returns the scores of [N, S, 2] errors, pairs adjacent, with a bootstrap interval."""
    pairs = errors.reshape(-1, 2, *errors.shape[1:]).sum(axis=1)
    total = pairs.sum(axis=0)
    if not (total[:, 1] > 0).all():
        raise UserError(f"the targets of {name} do not vary: there is nothing to explain")
    random = np.random.default_rng(seed)
    gains = []
    for _ in range(NUM_SAMPLES):
        drawn = pairs[random.integers(0, len(pairs), len(pairs))].sum(axis=0)
        gains.append(1 - (drawn[:, 0] / np.maximum(drawn[:, 1], 1e-300)).sum())
    low, high = np.percentile(gains, INTERVAL)
    r2 = 1 - total[:, 0] / total[:, 1]
    subordinate, dominant = map(float, r2)
    return Score(alpha, subordinate, dominant, gain(r2), float(low), float(high))
