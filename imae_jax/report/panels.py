"""The stored panels of `explorer`, read for the report."""

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from imae_jax.errors import UserError
from imae_jax.report.explorer import LAYOUT_FILE
from imae_jax.storage import atomic_files

# Limit for all panels of a page, as text; the page is to stay below 8 MB.
MAX_PANELS_CHARS = 6_000_000
# Small pictures are magnified to this, so that they stay sharp wherever they are shown.
MIN_STRIP_SIDE = 128
COUNTS = {2: "two", 3: "three", 4: "four"}


def read(folder: Path) -> dict | None:
    """Reads the files of `explorer.write` for the page.

    Returns:
      `layout`, `image`, the sprite as a data URI, and `strip`, see `draw_strip`; None if
      a file is missing, damaged or from another evaluation.
    """
    try:
        layout = atomic_files.read_json(folder / LAYOUT_FILE)
        data = (folder / Path(layout["image"]).name).read_bytes()
        if hashlib.sha256(data).hexdigest() != layout["sha256"]:
            return None
        layout |= {"start": choose_start(layout)}
        strip = draw_strip(layout, data)
    except (UserError, OSError, LookupError, TypeError, ValueError, ArithmeticError):
        return None
    kind = "png" if layout["image"].endswith("png") else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"image": uri, "layout": layout, "strip": strip}


def choose_start(layout: Mapping) -> dict[str, int]:
    """Chooses what is shown first: neither the best pair nor the worst.

    Returns:
      Indices of `alpha`, the middle one, of `ratio`, the nearest to training's, and of
      `pair`, the one of median error relative to the mean training image's.
    """
    alpha = len(layout["alphas"]) // 2
    trained = layout["trained_mask_ratio"]
    far = [abs(ratio - trained) for ratio in layout["mask_ratios"]]
    ratio = far.index(min(far))
    errors = [
        sum(mse[ratio][alpha]) / sum(mean[ratio])
        for mse, mean in zip(layout["mse"], layout["mse_train_mean"], strict=True)
    ]
    by_error = sorted(range(len(errors)), key=errors.__getitem__)
    return {"pair": by_error[len(errors) // 2], "alpha": alpha, "ratio": ratio}


def draw_strip(layout: Mapping, sprite: bytes) -> list[tuple[str, str, str]]:
    """Cuts the pictures of the first view out of the sprite, for the head of the page.

    Returns:
      (data URI, caption, alternative text) of the mixture and, by branch, of the
      reconstruction and the original.
    """
    start, sources = layout["start"], len(layout["branches"])
    pair, alpha, ratio = (start[name] for name in ("pair", "alpha", "ratio"))
    alphas, ratios = len(layout["alphas"]), len(layout["mask_ratios"])
    count = len(layout["labels"][pair])
    own = count + alphas
    first = pair * (own + ratios * alphas * sources)
    tiles = [(first + count + alpha, "mixture", f"a mixture of {COUNTS[count]} images")]
    for s, branch in enumerate(layout["branches"]):
        who = f"{branch}: {layout['labels'][pair][s]}"
        place = first + own + (ratio * alphas + alpha) * sources + s
        tiles.append((place, "predicted", f"the model's reconstruction, {who}"))
        tiles.append((first + s, "original", f"the original image, {who}"))
    with Image.open(io.BytesIO(sprite)) as opened:
        picture = opened.convert("RGB")
    height, width = layout["tile"]
    scale = -(-MIN_STRIP_SIDE // min(height, width))
    found = []
    for tile, caption, text in tiles:
        y, x = divmod(tile, layout["columns"])
        corner = x * width, y * height
        cut = picture.crop((*corner, corner[0] + width, corner[1] + height))
        cut = cut.resize((scale * width, scale * height), Image.Resampling.NEAREST)
        file = io.BytesIO()
        cut.save(file, "png")
        data = base64.b64encode(file.getvalue()).decode()
        found.append((f"data:image/png;base64,{data}", caption, text))
    return found


def read_runs(runs: Mapping[str, Path]) -> dict[str, dict | None]:
    """Reads the panels of the runs that have one; None if the page has no room for it."""
    panels, room = {}, MAX_PANELS_CHARS
    for name, run in runs.items():
        panel = read(run / "figures")
        if panel is None:
            continue
        size = len(panel["image"])
        panels[name] = panel if size <= room else None
        room -= size if size <= room else 0
    return panels
