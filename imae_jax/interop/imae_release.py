"""Files of i-MAE's release, read and written."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from imae_jax.errors import UserError, require
from imae_jax.interop.state_dict import (
    check_self_attention,
    script_args,
    state_dict,
    write_state_dict,
)
from imae_jax.training import trained_run


def export_release(run: trained_run.TrainedRun, out: Path) -> str:
    """Writes a file like those of MAE's training script, used by i-MAE's release too."""
    model = run.model
    if not model.has_decoder:
        raise UserError("--format=imae_torch: no classifier; timm holds one, fine-tuned")
    check_self_attention(run, "imae_torch")
    if model.is_fed_mixtures:
        allowed = "2 for --format=imae_torch, whose classes have no more heads"
        require(model.sources == 2, "mix.sources", model.sources, allowed)
    state, shown = state_dict(run), "MaskedAutoencoderViT"
    if model.is_fed_mixtures:
        has_two = model.branches == "both"
        shown = "MAEDouble" if has_two else "MaskedAutoencoderViT, one head"
        for kind in ("weight", "bias"):
            name, first = f"decoder_embed.{kind}", f"decoder_embed1.{kind}"
            # The two-head class inherits an unused decoder_embed, and loads strictly.
            state[name] = np.zeros_like(state[first]) if has_two else state.pop(first)
    write_state_dict(out, state, script_args(run), is_plain=False)
    return f"{out}: {shown}, {len(state)} arrays"


def from_release(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """Returns (arrays by the names of the two-head model, branches, notes)."""
    heads = {name: x for name, x in arrays.items() if name.startswith("decoder_embed.")}
    rest = {name: x for name, x in arrays.items() if name not in heads}
    if "decoder_embed1.weight" in arrays:
        # The class inherits MAE's decoder_embed but never uses it.
        note = "decoder_embed is left out: the release does not use it"
        return rest, "both", [note] if heads else []
    first = {name.replace("embed.", "embed1."): x for name, x in heads.items()}
    return rest | first, "subordinate", []
