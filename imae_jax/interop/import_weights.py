"""Converts a weights file to a run, as a teacher, initialization or for `imae_jax.load`."""

import hashlib
import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from imae_jax.data.encoded_images import parse_size
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.interop import mae_names, native_format, read_files
from imae_jax.interop.architecture import DetectedModel, detect
from imae_jax.models import masking, patches
from imae_jax.models.classifier import Classifier
from imae_jax.models.forward import forward
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.models.transformer import VARIANTS
from imae_jax.storage import atomic_files, pytrees
from imae_jax.storage.atomic_files import CONFIG_FILE
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.local_paths import local_path
from imae_jax.storage.workdir import as_json, exclusive_lock, open_workdir, settle_dtype
from imae_jax.training.state import init_params
from imae_jax.training.stored_model import stored_model

logger = logging.getLogger(__name__)

# Between position embeddings of a file and MAE's formula; bfloat16 rounds by 2e-3.
POSITION_TOLERANCE = 4e-3
# A decoder of pixels follows the brightness of its input; one of normalized patches always
# predicts a mean near 0.
BRIGHTNESS_THRESHOLD = 0.5


def import_file(
    path: str | Path,
    workdir: str | Path,
    presets: Mapping[str, ConfigDict],
    *,
    image_size: str | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    norm_pix: bool | None = None,
) -> str:
    """Converts a file's weights to a run and returns a description of them.

    Args:
      path: weights file, or a Hugging Face folder.
      workdir: folder without a run.
      presets: a config for each `DetectedModel.kind`; its model section is overwritten.
      image_size: "HEIGHT" or "HEIGHTxWIDTH"; for this and the rest see
        `architecture.detect`.
    Raises:
      UserError: if the file cannot be used; nothing is written then.
    """
    path = local_path(path, "checkpoint")
    contents = read_files.read(path)
    options: dict[str, Any] = dict(
        image_size=image_size and parse_size(image_size, "--image_size"),
        num_heads=num_heads,
        decoder_num_heads=decoder_num_heads,
        norm_pix=norm_pix,
    )
    notes: tuple[str, ...] = ()
    if contents.is_native:
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise UserError(f"--{given[0]}: {path} says so itself, being one of ours")
        config, arrays, meta, _ = native_format.read(contents, path)
        source = "exported from here"
    else:
        found = detect(contents, **options)
        config, params, meta = as_run(found, presets[found.kind])
        arrays, source, notes = {"params": params}, found.source, found.notes
    origin = {"file": path.name, "sha256": _sha256(contents.files)}
    folder = write_run(workdir, config, arrays, meta, origin)
    lines = [f"{path}: {source}", *notes, _as_text(config, arrays["params"], meta)]
    return "\n".join([*lines, f"Run: {folder}"])


def as_run(found: DetectedModel, config: ConfigDict) -> tuple[ConfigDict, Any, dict]:
    """Returns (config, parameters, meta) of a run with the detected model's weights.

    Args:
      found: the detected model.
      config: config of a run of the same kind, on files of images; its model section and
        the size of its images are overwritten.
    Raises:
      UserError: for missing, unexpected or misshapen arrays, and for position embeddings
        that are not MAE's.
    """
    config = config.copy_and_resolve_references()
    # Images that `eval` opens are brought to the size of the weights.
    with config.data.files.ignore_type():  # a number, or "HEIGHTxWIDTH"
        config.data.files.image_size = "x".join(map(str, found.image_size))
    config.data.files.channels = found.channels
    config.model.variant = _variant(found)
    config.model.encoder.update(found.encoder._asdict())
    if found.kind == "encoder":
        config.model.pools = ()
    elif found.kind == "classifier":
        config.model.pools = ("mean",)
    else:
        assert found.decoder is not None, f"there is none of {found.kind}"
        config.model.decoder.update(found.decoder._asdict())
        if found.mask_ratio is not None:
            config.mask.ratio = found.mask_ratio
    if found.kind == "imae":
        config.loss.branches = found.branches
    meta = dict(
        image_shape=[*found.image_size, found.channels],
        mean=list(found.mean),
        std=list(found.std),
        class_names=[f"class {number}" for number in range(found.num_classes)],
        sizes={},
        teacher=None,
        step=0,
    )
    network = stored_model(config, meta)
    params = _params(found, network)
    if isinstance(network, MAE | IMAE):
        norm_pix = found.norm_pix
        if norm_pix is None:
            norm_pix = not predicts_pixels(network, params)
        config.loss.norm_pix = norm_pix
    return config, params, meta


def _variant(found: DetectedModel) -> str:
    names = {size: name for name, size in VARIANTS.items()}
    return f"{names.get(found.encoder, 'B')}/{found.patch_size}"


def _params(found: DetectedModel, network: MAE | IMAE | Classifier) -> dict:
    """Converts the arrays to our names, checked against the network's parameters."""
    positions = {k: v for k, v in found.arrays.items() if k in mae_names.POSITIONS.values()}
    arrays = {k: v for k, v in found.arrays.items() if k not in positions}
    if any(".cross_attn." in name for name in arrays):
        raise UserError(
            f"{found.source}: its decoder has cross-attention by CrossMAE's names, which "
            "reads the encoder's tokens and not, as decoders here, a head's latents"
        )
    # Names first: a network as deep as one of them states may be absurd.
    blank = np.zeros(())
    named = {name.theirs: blank for name in found.names}
    pytrees.check_same_tree(named, dict.fromkeys(arrays, blank), f"{found.source}: it")
    like = pytrees.tree_leaves(jax.eval_shape(lambda: init_params(network, 0)))
    patch_shape = found.patch_size, found.channels
    expected = {
        name.theirs: jax.eval_shape(
            lambda x, form=name.form: mae_names.to_theirs(x, form, patch_shape),
            like[name.ours],
        )
        for name in found.names
    }
    pytrees.check_same_tree(expected, arrays, f"{found.source}: it")
    for part, size in (("encoder", found.encoder), ("decoder", found.decoder)):
        if size and (name := mae_names.POSITIONS[part]) in positions:
            _check_positions(positions[name], name, found, size.width)
        elif size:
            logger.info(f"the file has no {name}: MAE's fixed one is assumed")
    flat = {n.ours: mae_names.to_ours(arrays[n.theirs], n.form) for n in found.names}
    return pytrees.nested(flat)


def _check_positions(
    found: np.ndarray, name: str, whole: DetectedModel, width: int
) -> None:
    """Raises UserError unless they are MAE's; logs if they are of another grid."""
    if found.ndim != 3 or len(found) != 1 or found.shape[1] < 2 or found.shape[2] != width:
        raise UserError(f"{name} is {list(found.shape)}, should be [1, 1 + L, {width}]")
    num_patches = found.shape[1] - 1
    wanted = patches.grid_size(whole.image_size, whole.patch_size)
    side = math.isqrt(num_patches)
    # For the wanted image size, or for square images.
    grids = [grid for grid in (wanted, (side, side)) if grid[0] * grid[1] == num_patches]
    differences = {}
    for grid in grids:
        differences[grid] = float(np.abs(found - mae_names.positions(width, grid)).max())
    if not grids:
        raise UserError(f"{name} is of {num_patches} patches, which are no square")
    own = min(differences, key=differences.__getitem__)
    if not differences[own] <= POSITION_TOLERANCE:
        raise UserError(
            f"{name} is not MAE's fixed position embedding (it differs by up to "
            f"{differences[own]:.2g}): models here have no other"
        )
    if own != wanted:
        shown = [f"{rows}x{columns}" for rows, columns in (wanted, own)]
        logger.info(
            f"{name}: computed anew for {shown[0]} patches, the file has {shown[1]}"
        )


def predicts_pixels(network: MAE | IMAE, params: Any) -> bool:
    """True if the decoder predicts pixels, False if normalized patches.

    Decided by its predictions for a dark and a bright image of constant colour.
    """
    shades = np.array([-1.0, 1.0], np.float32)
    images = np.ones((2, *network.image_size, network.channels), np.float32)
    images *= shades[:, None, None, None]
    mask = masking.random_mask(jax.random.key(0), 2, network.num_patches, 0.5)
    pred = jax.jit(forward, static_argnums=0)(network, params, images, mask)["pred"]
    dark, bright = np.asarray(pred).reshape(2, -1).mean(axis=1)
    slope = float(bright - dark) / 2
    is_pixels = slope > BRIGHTNESS_THRESHOLD
    what = "pixels" if is_pixels else "patches normalized one by one (loss.norm_pix)"
    logger.info(
        f"the decoder predicts {what}, it seems: its mean follows {slope:.2f} of an "
        "image's brightness; --norm_pix says otherwise"
    )
    return is_pixels


def write_run(
    workdir: str | Path,
    config: ConfigDict,
    arrays: Mapping[str, Any],
    meta: Mapping,
    origin: Mapping[str, str],
) -> Path:
    """Makes a workdir with one checkpoint of `arrays`; see `checkpoint.ARRAYS`.

    Args:
      workdir: folder without a run.
      config, arrays, meta: what is stored.
      origin: name of the file that they are from, and its SHA-256.
    Raises:
      UserError: if it holds a run already or cannot be written.
    """
    config = ConfigDict(as_json(config))
    settle_dtype([config], [])
    if "ema_decay" in config.optim:
        config.optim.ema_decay = None  # the weights are the average already
    config.imported = ConfigDict(dict(origin))
    arrays = jax.device_put(dict(arrays), sharding.replicated(sharding.make_mesh()))
    meta = dict(meta) | {"config": as_json(config)}
    workdir = open_workdir(workdir)
    with exclusive_lock(workdir):
        folder = workdir / "checkpoints"
        if (workdir / CONFIG_FILE).exists() or folder.exists():
            raise UserError(
                f"workdir {str(workdir)!r} holds a run already; give one that does not"
            )
        try:
            with Checkpoints(workdir, keep=1) as checkpoints:
                checkpoints.save(meta["step"], arrays, meta)
            atomic_files.write_json(workdir / CONFIG_FILE, as_json(config))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return workdir


def _sha256(paths: Iterable[Path]) -> str:
    """SHA-256 of a file, or of several in their order."""
    sha = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                sha.update(block)
    return sha.hexdigest()


def _as_text(config: ConfigDict, params: Any, meta: Mapping) -> str:
    """One-line description of an imported model."""

    def of(size: ConfigDict) -> str:
        return f"{size.width} wide, {size.depth} deep, {size.heads} heads"

    shape = "x".join(map(str, meta["image_shape"]))
    patch = config.model.variant.partition("/")[2]
    count = sum(np.size(x) for x in jax.tree.leaves(params))
    text = f"{count:,} parameters; images {shape}, patches {patch}x{patch}"
    for part in ("encoder", "decoder"):
        if part in config.model:
            text += f"; {part} {of(config.model[part])}"
    return text
