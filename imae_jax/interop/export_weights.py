"""Exports a run to a file that other tools open."""

from pathlib import Path
from typing import Literal

from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.interop import native_format, stablehlo
from imae_jax.interop.huggingface import export_hugging_face
from imae_jax.interop.imae_release import export_release
from imae_jax.interop.timm import export_timm
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
        raise UserError(f"invalid --format={format!r}; formats: {known}")
    if dtype not in native_format.DTYPES or (
        dtype != "float32" and format != "safetensors"
    ):
        raise UserError(
            f"invalid --dtype={dtype!r}: float32 or, with --format=safetensors, bfloat16"
        )
    if out.exists():
        raise UserError(f"--out={str(out)!r} exists already; give a name that does not")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out={str(out)!r}: there is no folder {str(out.parent)!r}")
    if step not in (None, "best") and not step.isdecimal():
        raise UserError(f"invalid --step={step!r}: give a number, or best")
    _check_suffix(out, *SUFFIXES.get(format, ()))
    mesh = sharding.make_mesh()
    number: int | Literal["best"] | None = None
    if step is not None:
        number = "best" if step == "best" else int(step)
    run = trained_run.load_run(workdir, "workdir", mesh, number)
    if format == "safetensors":
        digest = native_format.write(out, run, dtype)
        return f"{out}: {dtype}, sha256 of the values {digest}"
    if format == "timm":
        return export_timm(run, out)
    if format == "hf":
        return export_hugging_face(run, out)
    if format == "imae_torch":
        return export_release(run, out)
    return stablehlo.export(run, out)


def _check_suffix(out: Path, *suffixes: str) -> None:
    if suffixes and out.suffix not in suffixes:
        raise UserError(f"--out={str(out)!r} must end in {' or '.join(suffixes)}")
