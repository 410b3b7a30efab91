"""Memory and traffic per chip as a TPU slice grows, from ahead-of-time compilation.

    python benchmarks/scaling.py [--preset imagenet] [--per-chip 16] [--json PATH]

Compiles i-MAE's training step for v5e slices from one chip to a pod, at a fixed batch per
chip: with a copy of the parameters on each chip, and with one copy sharded over all. Bytes
sent are compared with the minimum: every gradient summed once, every sharded array gathered
once. Needs libtpu, and minutes for each row of a large model.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from configs import imae  # noqa: E402
from imae_jax.aot import compile_step, plan, tpu_slices
from imae_jax.distributed import sharding  # noqa: E402

SLICES = {1: "v5e:1x1", 8: "v5e:2x4", 64: "v5e:8x8", 256: "v5e:16x16"}
COLUMNS = {
    "chips": "chips",
    "to_a_copy": "to a copy",
    "arguments": "arguments, MiB",
    "peak": "peak, MiB",
    "collectives": "collectives",
    "sent": "sent, MB",
    "ratio_vs_least": "of the least",
    "seconds": "compiled in, s",
}


def measure(preset: str, per_chip: int, num_chips: int, fsdp: int) -> dict:
    """Measures one row of the table."""
    chip, devices = tpu_slices.devices_of(SLICES[num_chips])
    config = plan.adapted(imae.get_config(preset), "tpu")
    config.mesh.fsdp, config.train.batch_size = fsdp, per_chip * num_chips
    plan.check(config, num_chips, "tpu")
    mesh = sharding.make_mesh(devices, fsdp)
    started = time.perf_counter()
    step = compile_step.trace(config, mesh, "tpu")
    compiled, need = compile_step.compile_step(step, chip.memory)
    found = {
        "chips": num_chips,
        "to_a_copy": mesh.shape["fsdp"],
        "arguments": need.arguments,
        "peak": need.peak,
        "fits": need.fits,
        "seconds": time.perf_counter() - started,
    }
    if compiled is None:
        return found
    exchanged = plan.traffic(compiled, step, config, mesh)
    kinds = [x["kind"] for x in exchanged["collectives"]]
    return found | {
        "collectives": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "sent": exchanged["bytes_sent"],
        "stray": exchanged["stray_collectives"],
        "ratio_vs_least": exchanged["ratio_vs_least_bytes_sent"],
    }


def as_cell(name: str, value) -> str:
    """Formats a number, or counts by kind, for the table."""
    if value is None:
        return "-"
    if name in ("arguments", "peak"):
        return f"{value / 2**20:,.0f}"
    if name == "sent":
        return f"{value / 1e6:,.1f}"
    if name == "collectives":
        return ", ".join(f"{count} {kind}" for kind, count in value.items()) or "none"
    return f"{value:.3f}" if name == "ratio_vs_least" else f"{value:.0f}"


def main() -> None:
    """Prints each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="imagenet")
    parser.add_argument("--per-chip", type=int, default=16)
    parser.add_argument(
        "--chips", type=int, nargs="+", default=list(SLICES), choices=SLICES
    )
    parser.add_argument("--fsdp", type=int, nargs="+", default=[1, -1])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json={arguments.json}: there is no such folder")
    print("| " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * len(COLUMNS) + "|")
    rows = []
    for fsdp in arguments.fsdp:
        for num_chips in arguments.chips:
            if fsdp != 1 and num_chips == 1:
                continue
            row = measure(arguments.preset, arguments.per_chip, num_chips, fsdp)
            rows.append(row)
            cells = [as_cell(name, row.get(name)) for name in COLUMNS]
            print("| " + " | ".join(cells) + " |", flush=True)
    if arguments.json:
        known = dict(preset=arguments.preset, per_chip=arguments.per_chip)
        arguments.json.write_text(json.dumps(known | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
