"""Exports a run to a file that other tools open."""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.interop import mae_names, native_format, stablehlo
from imae_jax.interop.metadata import WRITTEN_BY
from imae_jax.interop.read_files import import_torch
from imae_jax.models import patches
from imae_jax.storage import atomic_files, pytrees
from imae_jax.storage.local_paths import local_path
from imae_jax.training import trained_run

# Allowed extensions of file formats; the other formats are folders.
SUFFIXES = {
    "safetensors": (".safetensors",),
    "timm": (".safetensors", ".pth"),
    "imae_torch": (".safetensors", ".pth"),
}
FORMATS = ("safetensors", "timm", "hf", "imae_torch", "stablehlo")


def export(
    workdir: str | Path,
    format: str,
    out: str | Path,
    dtype: str = "float32",
    step: str | None = None,
) -> str:
    """Writes a run's weights and returns a one-line summary.

    Args:
      workdir: folder of the run.
      format: one of `FORMATS`.
      out: file or, for "hf" and "stablehlo", folder to write.
      dtype: type of the values in "safetensors"; other formats are float32.
      step: step of the checkpoint or "best"; None: the newest.
    Raises:
      UserError: if the format does not support the model, or `out` exists.
    """
    out = local_path(out, "out")
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(f"--format={format!r} is not possible; formats: {known}")
    if dtype not in native_format.DTYPES or (
        dtype != "float32" and format != "safetensors"
    ):
        raise UserError(
            f"--dtype={dtype!r} is not possible: float32 or, with --format=safetensors, "
            "bfloat16"
        )
    if out.exists():
        raise UserError(f"--out={str(out)!r} exists already; give a name that does not")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out={str(out)!r}: there is no folder {str(out.parent)!r}")
    if step not in (None, "best") and not step.isdecimal():
        raise UserError(f"--step={step!r} is not possible: give a number, or best")
    _check_suffix(out, *SUFFIXES.get(format, ()))
    mesh = sharding.make_mesh()
    number = int(step) if step and step.isdecimal() else step
    run = trained_run.load_run(workdir, "workdir", mesh, number)
    if format == "safetensors":
        digest = native_format.write(out, run, dtype)
        return f"{out}: {dtype}, sha256 of the values {digest}"
    if format == "timm":
        return _export_timm(run, out)
    if format == "hf":
        return _export_hugging_face(run, out)
    if format == "imae_torch":
        return _export_release(run, out)
    return stablehlo.export(run, out)


def _check_suffix(out: Path, *suffixes: str) -> None:
    if suffixes and out.suffix not in suffixes:
        raise UserError(f"--out={str(out)!r} must end in {' or '.join(suffixes)}")


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


def _write_state(
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
        data = safetensors.numpy.save(state, metadata)
    else:
        torch = import_torch(f"--out={str(out)!r} is to be a file of PyTorch's")
        tensors = {name: torch.from_numpy(x.copy()) for name, x in state.items()}
        buffer = io.BytesIO()
        whole = {"model": tensors, "args": argparse.Namespace(**args)}
        torch.save(tensors if is_plain else whole, buffer)
        data = buffer.getvalue()
    atomic_files.write_bytes(out, data)


def _args_of(run: trained_run.TrainedRun) -> dict:
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


def _export_timm(run: trained_run.TrainedRun, out: Path) -> str:
    """Writes the encoder, and a fine-tuned classifier's head, for timm's ViT."""
    model = run.model
    state = {
        name: x
        for name, x in state_dict(run).items()
        if "decoder" not in name and name != "mask_token"
    }
    options = dict(
        img_size=model.image_size,
        patch_size=model.patch_size,
        in_chans=model.channels,
        embed_dim=model.encoder_size.width,
        depth=model.encoder_size.depth,
        num_heads=model.encoder_size.heads,
        num_classes=0,
        global_pool="token",
    )
    if not model.has_decoder and model.pools:
        if model.is_probe or len(model.pools) > 1:
            raise UserError(
                "timm's models have no place for a probe's BatchNorm: export the run that "
                "it started from"
            )
        (pool,) = model.pools
        if pool == "mean":
            norm = run.params["fc_norm"]
            state |= {"fc_norm.weight": norm["scale"], "fc_norm.bias": norm["bias"]}
        head = run.params[f"head_{pool}"]
        state |= {"head.weight": head["kernel"].T, "head.bias": head["bias"]}
        state = {name: np.ascontiguousarray(x) for name, x in state.items()}
        options["num_classes"] = model.num_classes
        options["global_pool"] = "avg" if pool == "mean" else "token"
    _write_state(out, state, _args_of(run), is_plain=True)
    shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return (
        f"{out}: timm.models.VisionTransformer({shown}) loads it, or "
        "timm.create_model with these options; pixels are standardised with "
        f"mean {_shown(run, 'mean')} and deviation {_shown(run, 'std')}"
    )


def _unit(run: trained_run.TrainedRun, name: str) -> list[float]:
    """Mean or std of pixels on the 0..1 scale."""
    return [x / 255 for x in run.meta[name]]


def _shown(run: trained_run.TrainedRun, name: str) -> str:
    return ", ".join(f"{x:.4f}" for x in _unit(run, name))


def _export_hugging_face(run: trained_run.TrainedRun, out: Path) -> str:
    """Writes a folder for `ViTMAEForPreTraining.from_pretrained`."""
    model = run.model
    if not model.has_decoder or model.is_fed_mixtures:
        kind = run.kind.title
        raise UserError(
            f"--format=hf: a ViTMAE has one head and a decoder, and this is {kind}; "
            "imae_torch holds an i-MAE, timm the encoder of any run"
        )
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
        image_mean=_unit(run, "mean"),
        image_std=_unit(run, "std"),
    )
    state = mae_names.to_hugging_face(state_dict(run))
    state = {name: np.ascontiguousarray(x) for name, x in state.items()}
    weights = safetensors.numpy.save(state, {"format": "pt"})
    with atomic_files.new_folder(out) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "preprocessor_config.json").write_text(
            json.dumps(processor, indent=2) + "\n"
        )
        (folder / "model.safetensors").write_bytes(weights)
    return f"{out}: transformers.ViTMAEForPreTraining.from_pretrained({str(out)!r})"


def _export_release(run: trained_run.TrainedRun, out: Path) -> str:
    """Writes a file like those of MAE's training script, used by i-MAE's release too."""
    model = run.model
    if not model.has_decoder:
        raise UserError("--format=imae_torch: no classifier; timm holds one, fine-tuned")
    state, shown = state_dict(run), "MaskedAutoencoderViT"
    if model.is_fed_mixtures:
        has_two = model.branches == "both"
        shown = "MAEDouble" if has_two else "MaskedAutoencoderViT, one head"
        for kind in ("weight", "bias"):
            name, first = f"decoder_embed.{kind}", f"decoder_embed1.{kind}"
            # The two-head class inherits an unused decoder_embed, and loads strictly.
            state[name] = np.zeros_like(state[first]) if has_two else state.pop(first)
    _write_state(out, state, _args_of(run), is_plain=False)
    return f"{out}: {shown}, {len(state)} arrays"
