"""Hugging Face's ViTMAE: parameter names, and export as a folder."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from imae_jax.errors import UserError
from imae_jax.interop import mae_names
from imae_jax.interop.read_files import DIGEST
from imae_jax.interop.state_dict import check_self_attention, in_unit_range, state_dict
from imae_jax.storage import atomic_files, pytrees
from imae_jax.training import trained_run

# Patterns of MAE's names and their replacements in Hugging Face's published ViTMAE.
_HUGGING_FACE = [
    (r"cls_token", "vit.embeddings.cls_token"),
    (r"pos_embed", "vit.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(\w+)", r"vit.embeddings.patch_embeddings.projection.\1"),
    (r"norm\.(\w+)", r"vit.layernorm.\1"),
    (r"blocks\.(\d+)\.(.+)", r"vit.encoder.layer.\1.\2"),
    (r"decoder_blocks\.(\d+)\.(.+)", r"decoder.decoder_layers.\1.\2"),
    (r"(mask_token|decoder_pos_embed)", r"decoder.\1"),
    (r"(decoder_(?:embed|norm|pred)\.\w+)", r"decoder.\1"),
]
_HUGGING_FACE_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# transformers 5 writes the first name and reads both.
_HUGGING_FACE_ALIASES = {"decoder.decoder_encoder.layer.": "decoder.decoder_layers."}
_ENCODER = "vit."  # precedes the encoder's names
_MARK = "embeddings.patch_embeddings.projection.weight"
_QKV = ("query", "key", "value")


def export_hugging_face(run: trained_run.TrainedRun, out: Path) -> str:
    """Writes a folder for `ViTMAEForPreTraining.from_pretrained`."""
    model = run.model
    if not model.has_decoder or model.is_fed_mixtures:
        kind = run.kind.title
        raise UserError(
            f"--format=hf: a ViTMAE has one head and a decoder, and this is {kind}; "
            "imae_torch holds an i-MAE, timm the encoder of any run"
        )
    check_self_attention(run, "hf")
    height, width = model.image_size
    if height != width:
        raise UserError(f"--format=hf: its images are square, these are {height}x{width}")
    encoder, decoder = model.encoder_size, model.decoder_size
    config = dict(
        architectures=["ViTMAEForPreTraining"],
        model_type="vit_mae",
        image_size=height,
        patch_size=model.patch_size,
        num_channels=model.channels,
        hidden_size=encoder.width,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        intermediate_size=4 * encoder.width,
        decoder_hidden_size=decoder.width,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.width,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        qkv_bias=True,
        mask_ratio=run.config.mask.ratio,
        norm_pix_loss=run.config.loss.norm_pix,
    )
    processor = dict(
        image_processor_type="ViTImageProcessor",
        do_resize=True,
        size=dict(height=height, width=width),
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=in_unit_range(run, "mean"),
        image_std=in_unit_range(run, "std"),
    )
    state = to_hugging_face(state_dict(run))
    state = {name: np.ascontiguousarray(x) for name, x in state.items()}
    metadata = {"format": "pt", DIGEST: pytrees.digest(state)}
    weights = safetensors.numpy.save(state, metadata)
    with atomic_files.new_folder(out) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "preprocessor_config.json").write_text(
            json.dumps(processor, indent=2) + "\n"
        )
        (folder / "model.safetensors").write_bytes(weights)
    return f"{out}: transformers.ViTMAEForPreTraining.from_pretrained({str(out)!r})"


def _hugging_face_name(name: str) -> str:
    for pattern, replacement in _HUGGING_FACE:
        match = re.fullmatch(pattern, name)
        if match:
            name = match.expand(replacement)
            for theirs, hf in _HUGGING_FACE_BLOCK.items():
                name = name.replace(f".{theirs}.", f".{hf}.")
            return name
    raise KeyError(name)


def to_hugging_face(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts arrays to Hugging Face's names, with query, key and value separate."""
    found = {}
    for name, value in state.items():
        base, dot, kind = _hugging_face_name(name).partition(".attn.qkv.")
        if dot:
            for part, x in zip(_QKV, np.split(value, 3), strict=True):
                found[f"{base}.attention.attention.{part}.{kind}"] = x
        else:
            found[base] = value
    return found


def from_hugging_face(
    state: Mapping[str, np.ndarray], names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Inverse of `to_hugging_face`: arrays by MAE's names.

    Args:
      state: arrays by Hugging Face's names.
      names: MAE's names to look for; missing ones are left out, and other arrays keep
        their name.
    """
    state = dict(state)
    for alias, published in _HUGGING_FACE_ALIASES.items():
        state = {k.replace(alias, published): v for k, v in state.items()}
    found = {}
    for name in names:
        base, dot, kind = _hugging_face_name(name).partition(".attn.qkv.")
        parts = [base]
        if dot:
            parts = [f"{base}.attention.attention.{part}.{kind}" for part in _QKV]
        if all(part in state for part in parts):
            found[name] = np.concatenate([state.pop(part) for part in parts])
    return found | state


def has_its_names(arrays: Mapping[str, np.ndarray]) -> bool:
    """True if arrays are named as in a ViTMAE, or in its encoder alone."""
    return any(f"{prefix}{_MARK}" in arrays for prefix in ("", _ENCODER))


def by_mae_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts a ViTMAE's arrays to MAE's names, for as many blocks as it has."""
    if _MARK in arrays:  # the encoder alone
        arrays = {_ENCODER + name: x for name, x in arrays.items()}
    depths = []
    for pattern in (r"vit\.encoder\.layer\.(\d+)\.", r"decoder\.\w+(?:\.layer)?\.(\d+)\."):
        found = {int(match[1]) for name in arrays if (match := re.match(pattern, name))}
        depths.append(len(found))
    names = mae_names.encoder_names(depths[0])
    names += mae_names.decoder_names(depths[1], ["decoder_embed"])
    wanted = [name.theirs for name in names] + list(mae_names.POSITIONS.values())
    try:
        return from_hugging_face(arrays, wanted)
    except ValueError as error:  # query, key and value of different shapes
        raise UserError(f"query, key and value do not fit each other: {error}") from None
