"""Description of a data set: sizes, classes, statistics and a contact sheet."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tqdm import tqdm

from imae_jax.config import checks
from imae_jax.data import folder_layouts
from imae_jax.data.builders.registry import BUILDERS
from imae_jax.data.encoded_images import EncodedImages, reasons
from imae_jax.data.eval_splits import decoded, part_indices
from imae_jax.data.label_maps import EncodedLabelMaps
from imae_jax.data.load import Dataset, Split, of_files
from imae_jax.errors import UserError
from imae_jax.report.figures import as_png
from imae_jax.storage import atomic_files
from imae_jax.storage.local_paths import local_path
from imae_jax.storage.workdir import open_workdir
from imae_jax.training import setup

logger = logging.getLogger(__name__)

DATA_FILE = "data.json"
SHEET_FILE = "contact_sheet.png"
SHEET_ROWS, SHEET_COLUMNS = 10, 12
MOST_LISTED = 10  # unusable images per split that are listed on the terminal


def describe(config: ConfigDict, workdir: str | Path) -> str:
    """Prepares a config's data set, checks every image, and returns a description.

    Writes `data.json` and `contact_sheet.png` into a folder of the workdir named after the
    data set.

    Raises:
      UserError: if the data set is missing, damaged, or cannot be prepared; and, after
        printing the description, if images are unusable and not to be skipped.
    """
    checks.check_keys(config)
    name = re.sub(r"[^\w.+-]+", "_", config.data.name)
    workdir = open_workdir(local_path(workdir, "workdir") / name)
    dataset, unusable = open_all(config, workdir / DATA_FILE)
    found = summary(config, dataset) | {"unusable": unusable}
    atomic_files.write_json(workdir / DATA_FILE, found)
    sheet = workdir / SHEET_FILE
    figure = contact_sheet(dataset)
    atomic_files.write_bytes(sheet, as_png(figure))
    text = f"{as_text(found)}\nContact sheet: {sheet}"
    count = sum(map(len, unusable.values()))
    if count and config.data.on_bad_image == "raise":
        logger.info(text)
        number = folder_layouts.counted(count, "image")
        raise UserError(
            f"{number} cannot be used ({workdir / DATA_FILE} lists all): mend or remove "
            "them, or leave them out with data.on_bad_image=skip"
        )
    return text


def open_all(config: ConfigDict, path: Path) -> tuple[Dataset, dict[str, list[str]]]:
    """Opens the data set and decodes every image.

    Returns:
      The data set, and messages about unusable images by split. They are also printed and
      written to `path` at once, since too few images may remain to continue. There are
      none for data sets that are decoded when opened.
    """
    if config.data.name in BUILDERS:
        return setup.load_data(config), {}
    opened = setup.open_files(config)
    found: dict[str, list[str]] = {}
    total = sum(len(split.images) for split in opened.splits.values())
    with tqdm(total=total, desc="looking at every image", disable=None) as progress:
        for name, split in opened.splits.items():
            found[name] = []
            assert isinstance(split.images, EncodedImages), "see `Opened`"
            # One that cannot be read has no usable label map, for the same reason.
            maps = split.label_maps
            of_maps = reasons(maps) if isinstance(maps, EncodedLabelMaps) else repeat(None)
            for one, other in zip(reasons(split.images), of_maps, strict=False):
                reason = one or other
                found[name] += [reason] if reason else []
                progress.update()
    count = sum(map(len, found.values()))
    if count:
        atomic_files.write_json(path, {"unusable": found})
        logger.info(as_list(found, path))
    # Describe the remaining images.
    on_bad_image = "skip" if count else config.data.on_bad_image
    dataset = of_files(opened, on_bad_image)
    return dataclasses.replace(dataset, num_skipped=count), found


def as_list(unusable: Mapping[str, list[str]], path: Path) -> str:
    """Formats some of the messages about unusable images, a line each."""
    lines = []
    for name, own in unusable.items():
        if own:
            lines.append(
                f"{name}: {folder_layouts.counted(len(own), 'image')} cannot be used"
            )
        lines += [f"  {reason}" for reason in own[:MOST_LISTED]]
        if len(own) > MOST_LISTED:
            lines.append(f"  and {len(own) - MOST_LISTED:,} more, see {path}")
    return "\n".join(lines)


def summary(config: ConfigDict, dataset: Dataset) -> dict:
    """Collects the properties of a data set, JSON-serializable."""
    splits = {}
    for name, split in dataset.splits.items():
        splits[name] = {"images": len(split.images)}
        if dataset.class_names:
            counts = np.bincount(split.labels, minlength=len(dataset.class_names))
            splits[name]["images_per_class"] = counts.tolist()
    parts = part_indices(dataset.sizes, config.data.evaluate_on)
    train = dataset.splits["train"]
    return {
        "name": config.data.name,
        "path": str(dataset.path),
        "image_shape": list(dataset.image_shape),
        "splits": splits,
        "class_names": list(dataset.class_names),
        "factors": sorted(train.factors),
        "pixel_classes": list(dataset.pixel_classes),
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
        "bytes_on_disk": bytes_on_disk(dataset),
        "bytes_decoded": int(sum(dataset.sizes.values()) * np.prod(dataset.image_shape)),
        "feed": "resident"
        if setup.is_resident(config, train, jax.device_count())
        else "streaming",
        "evaluated_on": {
            part: {"split": split, "images": len(indices)}
            for part, (split, indices) in parts.items()
        },
        "skipped_images": dataset.num_skipped,
        "on_bad_image": config.data.on_bad_image,
        "ignored_files": dict(dataset.ignored),
    }


def bytes_on_disk(dataset: Dataset) -> int:
    """Total size of a data set's files in bytes."""
    names = [
        Path(name)
        for split in dataset.splits.values()
        if isinstance(split.images, EncodedImages)
        for name in split.images.names
    ]
    paths = [path for path in names if path.is_file()]
    if not paths and dataset.path:  # a prepared data set has records instead of image files
        paths = [path for path in dataset.path.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in paths)


def as_text(found: dict) -> str:
    """Formats the result of `summary`."""
    names, shape = found["class_names"], found["image_shape"]
    lines = [f"{found['name']} in {found['path']}"]
    channels = {1: "grey", 3: "RGB"}.get(shape[2], f"{shape[2]} channels")
    lines.append(f"images       {shape[0]}x{shape[1]}, {channels}")
    for name, split in found["splits"].items():
        counts = split.get("images_per_class")
        each = ""
        if counts:
            low, high = f"{min(counts):,}", f"{max(counts):,}"
            each = f", {low} a class" if low == high else f", {low} to {high} a class"
        lines.append(f"{name:12} {split['images']:,} images{each}")
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    lines.append(f"classes      {len(names)}{': ' if names else ''}{shown}")
    if found["factors"]:
        lines.append(f"factors      {', '.join(found['factors'])}")
    if found["pixel_classes"]:
        shown = ", ".join(found["pixel_classes"][:10])
        count = len(found["pixel_classes"])
        lines.append(f"label maps   {count} classes: {shown}{', ...' * (count > 10)}")
    for name in ("mean", "std"):
        values = "  ".join(f"{value:.1f}" for value in found[name])
        lines.append(f"{name:12} {values}  (of train pixels, 0 to 255)")
    sizes = [found[key] / 1e6 for key in ("bytes_on_disk", "bytes_decoded")]
    lines.append(f"size         {sizes[0]:,.0f} MB on disk, {sizes[1]:,.0f} MB decoded")
    lines.append(f"feed         {found['feed']}")
    for part, used in found["evaluated_on"].items():
        verb = dict(train="fitted on", validation="chosen by", test="scored on")[part]
        lines.append(f"evaluation   {verb} {used['images']:,} of {used['split']}")
    if found["skipped_images"]:
        then = {"skip": "left out", "raise": "the first ends a run"}[found["on_bad_image"]]
        number = folder_layouts.counted(found["skipped_images"], "image")
        lines.append(f"unusable     {number}; {then} (data.on_bad_image)")
    if found["ignored_files"]:
        ignored = folder_layouts.as_words(found["ignored_files"])
        lines.append(f"ignored      no images by their endings: {ignored}")
    return "\n".join(lines)


def contact_sheet(dataset: Dataset) -> Figure:
    """Draws training images, a row per class if there are classes.

    Unusable images are left out.
    """
    split = dataset.splits["train"]
    rows = _rows(split, len(dataset.class_names))
    size = (0.75 * SHEET_COLUMNS + 1.6, 0.75 * len(rows) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), SHEET_COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for row, (label, indices) in zip(axes, rows.items(), strict=True):
        name = dataset.class_names[label] if dataset.class_names else ""
        # Undecodable bytes as on the terminal; matplotlib cannot draw them.
        shown = name.encode(errors="backslashreplace").decode()[:18]
        # A name with two $ is no formula.
        style = dict(fontsize=8, rotation=0, ha="right", va="center", parse_math=False)
        row[0].set_ylabel(shown, **style)
        images = decoded(split, "skip", indices).pixels
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    return figure


def _rows(split: Split, num_classes: int) -> dict[int, np.ndarray]:
    """Indices of the images in each row, for some evenly spaced classes."""
    if not num_classes:
        count = min(len(split.images), SHEET_ROWS * SHEET_COLUMNS)
        indices = np.linspace(0, len(split.images) - 1, count).round().astype(int)
        parts = np.array_split(indices, -(-count // SHEET_COLUMNS))
        return dict(enumerate(parts))
    shown = np.linspace(0, num_classes - 1, min(num_classes, SHEET_ROWS)).round()
    return {
        int(label): np.flatnonzero(split.labels == label)[:SHEET_COLUMNS] for label in shown
    }
