"""State dicts by MAE's names, and the script arguments stored beside them."""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from imae_jax.errors import require
from imae_jax.interop import mae_names
from imae_jax.interop.metadata import WRITTEN_BY
from imae_jax.interop.read_files import DIGEST, import_torch
from imae_jax.models import patches
from imae_jax.storage import atomic_files, pytrees
from imae_jax.training import trained_run


def check_self_attention(run: trained_run.TrainedRun, format: str) -> None:
    """Raises UserError for a decoder of cross-attention, which `format` cannot hold."""
    attention = run.model.decoder_attention
    allowed = (
        f"'self' for --format={format}; safetensors and stablehlo hold any decoder, timm "
        "the encoder alone"
    )
    require(attention == "self", "model.decoder.attention", attention, allowed)


def state_dict(run: trained_run.TrainedRun) -> dict[str, np.ndarray]:
    """Float32 arrays of a run by MAE's names, including position embeddings."""
    model = run.model
    names = mae_names.encoder_names(model.encoder_size.depth)
    widths = dict(encoder=model.encoder_size.width)
    if model.has_decoder:
        heads = [head for head in mae_names.HEADS if head in run.params]
        names += mae_names.decoder_names(model.decoder_size.depth, heads)
        widths["decoder"] = model.decoder_size.width
    leaves = pytrees.tree_leaves(run.params)
    patch_shape = model.patch_size, model.channels
    state = {
        name.theirs: np.ascontiguousarray(
            mae_names.to_theirs(np.asarray(leaves[name.ours]), name.form, patch_shape)
        )
        for name in names
        if name.ours in leaves
    }
    grid = patches.grid_size(model.image_size, model.patch_size)
    for part, width in widths.items():
        state[mae_names.POSITIONS[part]] = mae_names.positions(width, grid)
    return state


def write_state_dict(
    out: Path, state: dict[str, np.ndarray], args: dict, *, is_plain: bool
) -> None:
    """Writes arrays as safetensors or, by extension, as a PyTorch file.

    Args:
      out: file to write.
      state: arrays by name.
      args: metadata.
      is_plain: for PyTorch: True writes the arrays alone, False `model` and `args` as MAE's
        training script does.
    """
    if out.suffix == ".safetensors":
        metadata = {"format": "pt", "args": json.dumps(args)}
        metadata[DIGEST] = pytrees.digest(state)
        data = safetensors.numpy.save(state, metadata)
    else:
        torch = import_torch(f"--out={str(out)!r} is to be a file of PyTorch's")
        tensors = {name: torch.from_numpy(x.copy()) for name, x in state.items()}
        buffer = io.BytesIO()
        whole = {"model": tensors, "args": argparse.Namespace(**args)}
        torch.save(tensors if is_plain else whole, buffer)
        data = buffer.getvalue()
    atomic_files.write_bytes(out, data)


def script_args(run: trained_run.TrainedRun) -> dict:
    """Metadata that `architecture` cannot infer from the arrays."""
    model = run.model
    args = dict(
        written_by=WRITTEN_BY,
        image_size=list(model.image_size),
        num_heads=model.encoder_size.heads,
        mean=run.meta["mean"],
        std=run.meta["std"],
    )
    if model.has_decoder:
        args["decoder_num_heads"] = model.decoder_size.heads
        args["norm_pix_loss"] = run.config.loss.norm_pix
        args["mask_ratio"] = run.config.mask.ratio
    # Marks files of the i-MAE release, see `metadata.of_script`.
    return args | ({"teacher_path": ""} if model.is_fed_mixtures else {})


def in_unit_range(run: trained_run.TrainedRun, name: str) -> list[float]:
    """Mean or std of pixels on the 0..1 scale."""
    return [x / 255 for x in run.meta[name]]
