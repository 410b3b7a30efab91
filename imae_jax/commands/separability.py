"""Measures the separability of encoders on a data set, as `main.py separability` does."""

import dataclasses
import io
import logging
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from ml_collections import ConfigDict

from imae_jax.data import image_files
from imae_jax.data.builders.registry import BUILDERS
from imae_jax.data.dataset import Split
from imae_jax.data.encoded_images import NUM_THREADS, EncodedImages
from imae_jax.data.load import check_known, load
from imae_jax.encoders.encoder import Encoder
from imae_jax.encoders.mixture_stream import LazyImages
from imae_jax.encoders.result import Separability
from imae_jax.encoders.separability import OWN, PIXELS, separability
from imae_jax.encoders.spec import open_encoder
from imae_jax.errors import UserError, require
from imae_jax.storage import atomic_files
from imae_jax.storage.local_paths import local_path

logger = logging.getLogger(__name__)

FOLDER = "folder"  # preset of a folder of images
NAME = "separability"  # of the files that are written
# An address with a name before it; in an address, a colon comes first.
NAMED = re.compile(r"(?P<name>[^:=]+)=(?P<address>.*)", re.DOTALL)


def measure(given: SimpleNamespace, preset: Callable[[str], ConfigDict]) -> None:
    """Measures encoders; logs the table, and writes `given.out` if it is set.

    Args:
      given: the command's flags.
      preset: returns the config of a preset, of which only the data is used.
    Raises:
      UserError: for invalid flags, data or encoders.
    """
    alphas = _numbers(given.alphas)
    if given.out:
        out = local_path(given.out, "--out").absolute()
        there = next(path for path in (out, *out.parents) if path.exists())
        is_ours = there.is_dir() and os.access(there, os.W_OK)
        require(is_ours, "out", given.out, "a folder that can be written")
    encoders = [_open(text) for text in given.encoder]
    target = given.target
    if target not in (OWN, PIXELS):
        same = (one for one in encoders if one.name == target)
        target = next(same, None) or open_encoder(target)
    for one in encoders:
        logger.info(f"{one.name}: {one.preprocessing}; {one.shown}")
    shown = [*encoders, target] if isinstance(target, Encoder) else encoders
    train, test = _images(given, preset, shown)
    found = separability(
        encoders,
        train,
        test_images=test,
        alphas=alphas,
        target=target,
        features=given.features,
        batch_size=given.batch_size,
        seed=given.seed,
    )
    # Shown first: what cannot be written is not lost.
    logger.info(f"\n{found.table()}\n\n{found.notes()}")
    if given.out:
        write(found, out)


def _open(text: str) -> Encoder:
    """Opens ADDRESS or NAME=ADDRESS; the address then stands beside the preprocessing."""
    named = NAMED.fullmatch(text)
    if named is None:
        return open_encoder(text)
    opened = open_encoder(named["address"])
    source = f"{opened.preprocessing.source}; {opened.name}"
    preprocessing = dataclasses.replace(opened.preprocessing, source=source)
    return dataclasses.replace(opened, name=named["name"], preprocessing=preprocessing)


def _numbers(text: str) -> list[float]:
    try:
        return [float(x) for x in text.split(",")]
    except ValueError:
        raise UserError(
            f"invalid alphas={text!r}: must be numbers in (0, 0.5), as 0.1,0.3"
        ) from None


def _images(
    given: SimpleNamespace, preset: Callable[[str], ConfigDict], encoders: list[Encoder]
) -> tuple[LazyImages, LazyImages]:
    """Opens the data; returns images to fit and to test, read when they are needed.

    Those of a folder are decoded at the largest size that an encoder takes.
    """
    folder = local_path(given.data, "--data")
    if folder.is_dir():
        text = f"left out: --data={given.data} is a folder, which is read where it is"
        require(not given.data_dir, "data_dir", given.data_dir, text)
        config = preset(FOLDER)
        config.data.dir = str(folder)
        if sizes := [x for one in encoders if (x := one.preprocessing.size)]:
            largest = (str(max(x)) for x in zip(*sizes, strict=True))
            config.data.files.image_size = "x".join(largest)
    else:
        try:
            config = preset(given.data)
        except ValueError as error:
            raise UserError(
                f"invalid data={given.data!r}: must be a folder, or a preset ({error})"
            ) from None
        if given.data_dir:
            config.data.dir = given.data_dir
    splits = _splits(config.data)
    scored = "test" if "test" in splits else "validation"
    train, test = (_lazy(splits[x].images, given.num_images) for x in ("train", scored))
    return train, test


def _splits(data: ConfigDict) -> Mapping[str, Split]:
    """Opens a data set; no image of a file is decoded yet."""
    files = data.get("files")
    check_known(data.name, files)
    if data.name in BUILDERS:
        return load(data.name, data.dir, on_bad_image="raise").splits
    root = local_path(data.dir, "data.dir")
    return image_files.open_files(data.name, root, files, min_side=1).splits


def _lazy(images: np.ndarray | EncodedImages, most: int) -> LazyImages:
    """Returns at most `most` random images of a split, in a fixed order."""
    # RandomState: its stream is frozen across NumPy versions.
    chosen = np.sort(np.random.RandomState(0).permutation(len(images))[:most])

    def read(places: np.ndarray) -> np.ndarray:
        indices = chosen[places]
        if not isinstance(images, EncodedImages):
            return images[indices]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return np.stack(list(pool.map(images.get, indices.tolist())))

    return LazyImages((len(chosen), *images.shape[1:]), read)


def write(found: Separability, out: Path) -> None:
    """Writes the table, the chart and all numbers to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    # The chart last: whatever fails there, the numbers are written.
    atomic_files.write_json(out / f"{NAME}.json", found.to_dict())
    atomic_files.write_text(out / f"{NAME}.md", f"{found.table()}\n\n{found.notes()}\n")
    picture = io.BytesIO()
    found.plot().savefig(picture, format="svg", metadata={"Date": None})
    atomic_files.write_bytes(out / f"{NAME}.svg", picture.getvalue())
