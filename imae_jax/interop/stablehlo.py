"""Exports a run as StableHLO programs that need none of our code, see `EXPIRY`."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from imae_jax.data import augment
from imae_jax.models.classifier import Classifier
from imae_jax.models.forward import classify, encode
from imae_jax.models.layers import Compute
from imae_jax.models.masking import num_visible
from imae_jax.storage import atomic_files
from imae_jax.training import trained_run

PLATFORMS = ("cpu", "cuda", "tpu")
EXPIRY = (
    "JAX reads a program that it has exported for six months (its compatibility promise): "
    "this is for deployment. Weights that are to last are exported as safetensors."
)


def programs(run: trained_run.TrainedRun) -> dict:
    """Returns {name: (function, shapes and types of its arguments, description)}."""
    network = run.model.clone(compute=Compute())
    mean, std = (jnp.asarray(run.meta[name], jnp.float32) for name in ("mean", "std"))
    params = jax.device_get(run.params)
    image_shape = (*network.image_size, network.channels)
    num_patches = network.num_patches
    (b,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((b, *image_shape), jnp.uint8)

    def of(pixels: jax.Array) -> jax.Array:
        return augment.normalize(pixels, mean, std)

    if isinstance(network, Classifier) and network.pools:
        variables = {"params": params, "batch_stats": run.batch_stats}

        def logits(pixels: jax.Array) -> dict[str, jax.Array]:
            return classify(network, variables, of(pixels))

        return {"classify": (logits, (images,), "images -> logits of each class")}

    def tokens(pixels: jax.Array) -> jax.Array:
        return encode(network, params, of(pixels))

    found: dict[str, tuple[Callable, tuple, str]]
    found = {"encode": (tokens, (images,), "images -> tokens, the class token first")}
    if network.has_decoder:

        def forward(
            images: jax.Array, ids_keep: jax.Array, ids_restore: jax.Array
        ) -> dict[str, jax.Array]:
            out: Any = network.apply({"params": params}, images, ids_keep, ids_restore)
            return out

        visible = num_visible(num_patches, run.config.mask.ratio)
        shapes = (
            jax.ShapeDtypeStruct((b, *image_shape), jnp.float32),
            jax.ShapeDtypeStruct((b, visible), jnp.int32),
            jax.ShapeDtypeStruct((b, num_patches), jnp.int32),
        )
        said = "normalized images or mixtures and their masks -> tokens, latents, pred"
        found["forward"] = forward, shapes, said
    return found


@contextlib.contextmanager
def _no_paths() -> Iterator[None]:
    """Context that keeps folders out of the source locations in programs."""
    option = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, option)
    jax.config.update(option, ".*/")
    try:
        yield
    finally:
        jax.config.update(option, before)


def export(run: trained_run.TrainedRun, out: Path) -> str:
    """Writes a folder with the programs and their description, `programs.json`."""
    said, blobs = {}, {}
    for name, (function, shapes, text) in programs(run).items():
        with _no_paths():
            exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
        blobs[f"{name}.stablehlo"] = exported.serialize()
        said[f"{name}.stablehlo"] = {
            "is": text,
            "arguments": [str(x) for x in exported.in_avals],
            "results": [str(x) for x in exported.out_avals],
            "calling_convention_version": exported.calling_convention_version,
        }
    about = {
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "expires": EXPIRY,
        "mean": run.meta["mean"],
        "std": run.meta["std"],
        "programs": said,
    }
    with atomic_files.new_folder(out) as folder:
        for name, blob in blobs.items():
            (folder / name).write_bytes(blob)
        (folder / "programs.json").write_text(json.dumps(about, indent=2) + "\n")
    names = ", ".join(blobs)
    return f"{out}: {names}, for {', '.join(PLATFORMS)}, by JAX {jax.__version__}. {EXPIRY}"
