"""What a data set holds: prepared, counted, and shown on a contact sheet."""

from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from imae_jax import files, setup, validate, workdirs
from imae_jax.data.images import EncodedImages
from imae_jax.data.parts import decoded, part_indices
from imae_jax.data.sources import Dataset, Split
from imae_jax.paths import local_path
from imae_jax.report.figures import as_png

DATA_FILE = "data.json"
SHEET_FILE = "contact_sheet.png"
SHEET_ROWS, SHEET_COLUMNS = 10, 12


def describe(config: ConfigDict, workdir: str | Path) -> str:
    """Prepares a config's data set and describes it.

    Writes `data.json` and `contact_sheet.png` into a folder of the workdir, named after the
    data set.

    Returns:
      The description, some lines of text.
    Raises:
      UserError: if the data set is missing, damaged, or cannot be prepared.
    """
    validate.check_sections(config)
    dataset = setup.load_data(config)
    workdir = workdirs.open_workdir(local_path(workdir, "workdir") / config.data.name)
    found = summary(config, dataset)
    files.write_json(workdir / DATA_FILE, found)
    sheet = workdir / SHEET_FILE
    figure = contact_sheet(dataset, config.data.on_bad_image)
    files.write_bytes(sheet, as_png(figure))
    return f"{as_text(found)}\nContact sheet: {sheet}"


def summary(config: ConfigDict, dataset: Dataset) -> dict:
    """All that is known of a data set, as JSON holds it."""
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
    }


def bytes_on_disk(dataset: Dataset) -> int:
    """The size of a data set's files."""
    names = [
        Path(name)
        for split in dataset.splits.values()
        if isinstance(split.images, EncodedImages)
        for name in split.images.names
    ]
    # Those of a prepared data set are not images but records.
    if not names or not names[0].exists():
        names = [path for path in dataset.path.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in names)


def as_text(found: dict) -> str:
    """`summary` for people."""
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
        lines.append(f"skipped      {found['skipped_images']} images cannot be used")
    return "\n".join(lines)


def contact_sheet(dataset: Dataset, on_bad_image: str) -> Figure:
    """Draws training images, a row per class, or, without classes, in any order."""
    split = dataset.splits["train"]
    rows = _rows(split, len(dataset.class_names))
    size = (0.75 * SHEET_COLUMNS + 1.6, 0.75 * len(rows) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), SHEET_COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for row, (label, indices) in zip(axes, rows.items(), strict=True):
        name = dataset.class_names[label] if dataset.class_names else ""
        row[0].set_ylabel(name[:18], fontsize=8, rotation=0, ha="right", va="center")
        images = decoded(split, on_bad_image, indices).images
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    return figure


def _rows(split: Split, num_classes: int) -> dict[int, np.ndarray]:
    """Which images stand in each row; of many classes some, evenly spaced."""
    if not num_classes:
        count = min(len(split.images), SHEET_ROWS * SHEET_COLUMNS)
        indices = np.linspace(0, len(split.images) - 1, count).round().astype(int)
        parts = np.array_split(indices, -(-count // SHEET_COLUMNS))
        return dict(enumerate(parts))
    shown = np.linspace(0, num_classes - 1, min(num_classes, SHEET_ROWS)).round()
    return {
        int(label): np.flatnonzero(split.labels == label)[:SHEET_COLUMNS] for label in shown
    }
