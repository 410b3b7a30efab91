"""Export of the encoder for timm."""

from pathlib import Path

import numpy as np

from imae_jax.errors import UserError
from imae_jax.interop.state_dict import (
    in_unit_range,
    script_args,
    state_dict,
    write_state_dict,
)
from imae_jax.training import trained_run


def export_timm(run: trained_run.TrainedRun, out: Path) -> str:
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
    write_state_dict(out, state, script_args(run), is_plain=True)
    shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return (
        f"{out}: timm.models.VisionTransformer({shown}) loads it, or "
        "timm.create_model with these options; pixels are normalized with "
        f"mean {_shown(run, 'mean')} and std {_shown(run, 'std')}"
    )


def _shown(run: trained_run.TrainedRun, name: str) -> str:
    return ", ".join(f"{x:.4f}" for x in in_unit_range(run, name))
