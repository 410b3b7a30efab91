"""Report on a training step's memory, traffic and lower bound of time (`main.py compile`).

Based on the compiler: neither devices, nor data, nor other runs are needed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax.aot import compile_step, hlo_collectives, tpu_slices
from imae_jax.aot.compile_step import MemoryUse, TracedStep
from imae_jax.config import checks
from imae_jax.data.load import check_known
from imae_jax.distributed import sharding
from imae_jax.models.layers import AUTO, REMATS, fastest_type
from imae_jax.objectives.select import OBJECTIVES, group_size

logger = logging.getLogger(__name__)

GPUS = "cuda"


def plan(config: ConfigDict, topology: str) -> dict:
    """Analyzes the training step of a config; `as_text` formats the result.

    Args:
      config: config of a run; neither its data nor the runs it names are read.
      topology: TPU slice, see `tpu_slices.devices_of`, or "cuda" for the local GPUs.
        Without GPUs, only the results that need no compiler are returned.
    Raises:
      UserError: for bad input, before anything is compiled.
    """
    chip: tpu_slices.Chip | None
    devices: Sequence[jax.Device]
    if topology == GPUS:
        chip, devices, platform = None, jax.devices(), "gpu"
    else:
        chip, devices = tpu_slices.devices_of(topology)
        platform = "tpu"
    config = adapted(config, platform)
    check(config, len(devices), platform)
    if devices[0].platform != platform:
        config.compute.attention = "xla"  # cuDNN's is only lowered on a GPU
    mesh = sharding.make_mesh(devices, config.mesh.fsdp)
    step = compile_step.trace(config, mesh, platform)
    found = {
        "topology": topology,
        "devices": mesh.size,
        "sharing_a_copy": mesh.shape["fsdp"],
        "batch_size": config.train.batch_size,
        "parameters": count(step.state.params),
        "teacher_parameters": count(step.teacher),
        "flops_per_step": compile_step.count_flops(config),
        "argument_bytes": compile_step.bytes_each(step[1:4]) + step.resident,
        "resident_image_bytes": step.resident,
    }
    if devices[0].platform != platform:
        step.traced.lower(lowering_platforms=(GPUS,))
        return found
    memory = int(chip.memory if chip else devices[0].memory_stats()["bytes_limit"])
    logger.info(f"compiling for {topology}, batch {config.train.batch_size:,}")
    compiled, need = compile_step.compile_step(step, memory)
    found |= {"bytes": need._asdict(), "fits": need.fits}
    if not need.fits:
        found["cheapest_remat"] = cheapest_remat(config, mesh, platform, memory)
    found["largest_batch"] = largest_batch(config, mesh, platform, step, need)
    if compiled is not None:
        found |= traffic(compiled, step, config, mesh)
        if chip:
            found["seconds_at_least"] = floor(found, compiled, chip)
    return found


def adapted(config: ConfigDict, platform: str) -> ConfigDict:
    """Replaces other runs by placeholders and "auto" by the platform's type."""
    config = config.copy_and_resolve_references()
    checks.check_keys(config)
    if config.compute.dtype == AUTO:
        config.compute.dtype = fastest_type(platform)
    stand_in = "a run that is not read"
    kind = OBJECTIVES[config.model.name]
    if config.init == "teacher" or kind.is_distilled(config):
        config.teacher.init = stand_in
    if kind.needs_init(config):
        config.init = stand_in
    return config


def check(config: ConfigDict, num_devices: int, platform: str) -> None:
    """Performs the checks of `setup.check` that need neither data nor other runs."""
    check_known(config.data.name, config.data.get("files"))
    checks.check_mesh(config.mesh.fsdp, num_devices)
    dataset = compile_step.unseen_data(config)
    checks.check(config, dataset, num_devices, platform)


def count(tree: Any) -> int:
    """Total number of elements of a pytree of arrays."""
    return sum(x.size for x in jax.tree.leaves(tree))


def cheapest_remat(
    config: ConfigDict, mesh: Mesh, platform: str, memory: int
) -> str | None:
    """Cheapest value of `compute.remat` with which the step fits, or None."""
    config = config.copy_and_resolve_references()
    for remat in REMATS[REMATS.index(config.compute.remat) + 1 :]:
        logger.info(f"compiling with compute.remat={remat}")
        config.compute.remat = remat
        step = compile_step.trace(config, mesh, platform)
        if compile_step.compile_step(step, memory)[1].fits:
            return remat
    return None


def largest_batch(
    config: ConfigDict, mesh: Mesh, platform: str, step: TracedStep, need: MemoryUse
) -> int:
    """Finds a batch size close to the largest that fits, by compiling.

    The first guess assumes that all memory but the state's is proportional to the batch.
    """
    config = config.copy_and_resolve_references()
    given = config.train.batch_size
    unit = group_size(config) * mesh.size * config.train.accumulate
    fixed = compile_step.bytes_each((step.state, step.teacher)) + step.resident
    guess = given * (need.limit - fixed) / (need.peak - fixed)
    while (guess := int(guess) // unit * unit) > 0:
        if need.fits and guess <= given:
            return given
        logger.info(f"compiling for batch {guess:,}")
        config.train.batch_size = guess
        tried = compile_step.trace(config, mesh, platform)
        if compile_step.compile_step(tried, need.limit)[1].fits:
            return guess
        guess *= 0.95
    return 0


def least_sent(step: TracedStep, config: ConfigDict, mesh: Mesh) -> float:
    """Minimum of bytes sent per device in a step, counted as in `Collective.sent`.

    Sharded parameters, including the teacher's up to its latents, are gathered once; their
    gradients are reduce-scattered, and each shard is all-reduced over the copies. Other
    gradients are all-reduced. The type is float32, or that of the matrix product. Pooled
    features are gathered once, and their gradients reduce-scattered, in float32.
    """
    part = 1 / mesh.shape["fsdp"] if mesh.shape["data"] > 1 else 0
    product_size = jnp.dtype(config.compute.dtype).itemsize
    is_probe = config.model.get("mode") == "linear"

    def nbytes(path: tuple, leaf: Any, is_trained: bool) -> float:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_float32 = not name.endswith(("kernel", "bias"))
        is_float32 |= "norm" in name or "head_" in name
        is_shared = not leaf.sharding.is_fully_replicated
        is_trained &= not (is_probe and name.startswith("encoder/"))
        times = is_shared + is_trained * (1 + 2 * part if is_shared else 2)
        return times * leaf.size * (4 if is_float32 else product_size)

    teacher = {k: v for k, v in (step.teacher or {}).items() if k != "decoder"}
    parameters = sum(
        nbytes(path, leaf, is_trained)
        for tree, is_trained in ((step.state.params, True), (teacher, False))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    )
    features = config.train.batch_size * features_gathered(step, config)
    return parameters + 2 * 4 * features


def features_gathered(step: TracedStep, config: ConfigDict) -> int:
    """Number of features of an image that all devices get, see `objectives.contrast`."""
    loss = config.get("loss") or {}  # a classifier has none
    contrast = uniformity = 0
    if loss.get("contrast_weight"):
        contrast = 2 * config.model.decoder.width
    if loss.get("uniformity_weight"):
        uniformity = step.state.params["encoder"]["class_token"].size
    return contrast + uniformity


def traffic(
    compiled: jax.stages.Compiled, step: TracedStep, config: ConfigDict, mesh: Mesh
) -> dict:
    """Collectives of a step, bytes sent per device, and their lower bound."""
    exchanged = hlo_collectives.read(compiled.as_text() or "")
    sent = sum(x.sent for x in exchanged)
    least = least_sent(step, config, mesh) if mesh.size > 1 else 0
    expected = ["all-reduce"]
    if mesh.shape["fsdp"] > 1 or features_gathered(step, config):
        expected += ["reduce-scatter", "all-gather"]
    return {
        "collectives": [x._asdict() for x in exchanged],
        "bytes_sent": sent,
        "least_bytes_sent": least,
        "ratio_vs_least_bytes_sent": sent / least if least else None,
        "stray_collectives": sum(x.kind not in expected for x in exchanged),
    }


def floor(found: Mapping, compiled: jax.stages.Compiled, chip: tpu_slices.Chip) -> dict:
    """Lower bounds of a step's seconds, by matrix products, HBM and links.

    HBM traffic is reading the arguments once and writing the new state. (The compiler's
    count of bytes includes those that never leave the chip.)
    """
    memory: Any = compiled.memory_analysis()
    written = memory.output_size_in_bytes
    seconds = {
        "products": found["flops_per_step"] / found["devices"] / chip.flops,
        "memory": (found["argument_bytes"] + written) / chip.memory_rate,
        "links": found["bytes_sent"] / chip.link_rate,
    }
    return seconds | {"step": max(seconds.values())}


def as_text(found: Mapping) -> str:
    """Formats the result of `plan` as a table."""
    rows = [
        ("devices", f"{found['devices']}, {found['sharing_a_copy']} to a copy"),
        ("batch", f"{found['batch_size']:,}"),
        ("parameters", f"{found['parameters']:,}"),
        ("of the teacher", f"{found['teacher_parameters']:,}"),
        ("a step computes", f"{found['flops_per_step'] / 1e9:,.1f} GFLOP"),
        ("arguments, each", mib(found["argument_bytes"])),
        ("  of it images", mib(found["resident_image_bytes"])),
    ]
    if "bytes" not in found:
        why = "not known: there is no GPU here, and none to ask its compiler"
        return aligned([*rows, ("temporaries, each", why)])
    need = found["bytes"]
    if need["temporaries"] is not None:
        rows.append(("temporaries, each", mib(need["temporaries"])))
    verdict = "fits" if found["fits"] else "does not fit"
    peak = f"{mib(need['peak'])} of {mib(need['limit'])}: {verdict}"
    rows.append(("peak, each", peak))
    if "cheapest_remat" in found:
        remat = found["cheapest_remat"]
        other = "a smaller batch, train.accumulate or mesh.fsdp"
        rows.append(("makes it fit", f"compute.remat={remat}" if remat else other))
    rows.append(("a batch that fits", f"{found['largest_batch']:,}"))
    if "collectives" in found:
        rows += exchanges(found["collectives"])
        if least := found["least_bytes_sent"]:
            ratio = found["ratio_vs_least_bytes_sent"]
            rows.append(("sent, each", f"{ratio:.3f} of the least, {least / 1e6:,.2f} MB"))
    if "seconds_at_least" in found:
        least = {name: f"{x * 1e3:.2f}" for name, x in found["seconds_at_least"].items()}
        whole = least.pop("step")
        parts = ", ".join(f"{name} {text}" for name, text in least.items())
        rows.append(("a step takes", f"at least {whole} ms ({parts})"))
    return aligned(rows)


def exchanges(found: Sequence[Mapping]) -> list[tuple[str, str]]:
    """Rows for the collectives of each kind: number, bytes and origin of the largest."""
    rows = []
    for kind in dict.fromkeys(x["kind"] for x in found):
        alike = [x for x in found if x["kind"] == kind]
        nbytes = sum(x["times"] * x["nbytes"] for x in alike)
        origin = max(alike, key=lambda x: x["nbytes"])["origin"] or "not known"
        number = sum(x["times"] for x in alike)
        text = f"{number} a step, {nbytes / 1e6:,.2f} MB; the largest for {origin}"
        rows.append((kind, text))
    return rows


def mib(nbytes: float) -> str:
    """Formats bytes in MiB."""
    return f"{nbytes / 2**20:,.1f} MiB"


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Formats names and texts in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)
