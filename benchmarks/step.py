"""Benchmark of training steps, in absolute time and relative to peak matrix products.

    python benchmarks/step.py [--size Ti/4 ...] [--peer] [--json PATH]

Measures MAE and i-MAE alternately in float32 and bfloat16, i-MAE also with one mask for
both mixtures of a pair; with `--form` (repeatable) also as a loop or with recomputation;
with `--decoder=cross` also with cross-attention in the decoder, which then predicts a
fraction of the masked patches (`--predict-fraction`); with `--peer` also in PyTorch, eager
and compiled. The machine's peak is measured with large matrix products. Prints a table, and
writes JSON with `--json`.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import flops  # noqa: E402
from benchmarks.timing import matmul_peaks, time_alternating  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402
from configs import mae  # noqa: E402
from imae_jax import optim, runtime
from imae_jax.distributed import sharding
from imae_jax.models import layers
from imae_jax.models.factory import build_autoencoder
from imae_jax.models.mae import DECODER_ATTENTIONS
from imae_jax.objectives.base import Augmentation
from imae_jax.objectives.imae import IMAEObjective
from imae_jax.objectives.mae import MAEObjective
from imae_jax.objectives.mask_kinds import Masking
from imae_jax.training.state import init_params, init_state
from imae_jax.training.step import make_train_step

PEER = "PyTorch"
UNSET = dict(width=None, depth=None, heads=None)
# Image shape, batch on a CPU, batch on an accelerator, mask ratio, decoder.
SIZES = {
    "digits": None,  # from configs/mae.py
    "Ti/4": ((32, 32, 3), 256, 4096, 0.75, dict(width=192, depth=4, heads=3)),
    "Ti/2": ((32, 32, 3), 64, 1024, 0.75, dict(width=192, depth=4, heads=3)),
    "B/16": ((224, 224, 3), 8, 256, 0.75, dict(width=512, depth=8, heads=16)),
}
# Forms of our step: changes to the plain one, see `layers.Compute`.
FORMS = {
    "plain": {},
    "scan": dict(scan=True),
    "remat products": dict(remat="products"),
    "remat blocks": dict(remat="blocks"),
    "cudnn": dict(attention="cudnn"),
}


class Work(NamedTuple):
    """A training step to measure.

    Attributes:
      kind, dtype: "mae" or "imae", and the type of its products.
      shared_mask: see `mixing.draw_mixtures`.
      form: one of `FORMS`, ours only.
      decoder, predict_fraction: see `mae.Decoder` and `MAEObjective`.
    """

    kind: str
    dtype: str
    shared_mask: bool = False
    form: str = "plain"
    decoder: str = "self"
    predict_fraction: float = 1.0

    def __str__(self):
        form = "" if self.form == "plain" else f" {self.form}"
        if self.decoder == "cross":
            form += f" cross {self.predict_fraction:g}"
        return f"{self.kind}{' shared mask' * self.shared_mask} {self.dtype}{form}"


def describe(size: str, batch_size: int | None):
    """Returns (image shape, batch, mask ratio, fields of `build_autoencoder`)."""
    if size == "digits":
        config = mae.get_config("digits")
        fields = {key: value for key, value in config.model.items() if key != "name"}
        return (8, 8, 1), batch_size or config.train.batch_size, config.mask.ratio, fields
    image_shape, on_cpu, on_accelerator, mask_ratio, decoder = SIZES[size]
    usual = on_cpu if jax.default_backend() == "cpu" else on_accelerator
    decoder = decoder | dict(attention="self")
    fields = dict(variant=size, encoder=UNSET, decoder=decoder)
    return image_shape, batch_size or usual, mask_ratio, fields


def make_step(work: Work, size: str, batch_size: int | None):
    """Returns a function that runs and times one training step, and its properties."""
    image_shape, batch_size, mask_ratio, fields = describe(size, batch_size)
    form = dict(attention="xla", scan=False, remat="none") | FORMS[work.form]
    fields["compute"] = layers.choose(work.dtype, **form, platform=jax.default_backend())
    fields["decoder"] = dict(fields["decoder"], attention=work.decoder)
    networks = {
        kind: build_autoencoder(name=kind, **fields, image_shape=image_shape)
        for kind in ("mae", "imae")
    }
    masking = Masking(mask_ratio, "random", content_weight=0.0, grid=networks["mae"].grid)
    common = Augmentation(mean=0.0, std=255.0), masking, False, work.predict_fraction
    teacher_params = None
    if work.kind == "mae":
        objective = MAEObjective(networks["mae"], *common)
    else:
        teacher_params = init_params(networks["mae"], 1)
        objective = IMAEObjective(
            networks["imae"],
            *common,
            alpha=None,
            per_batch=False,
            shared_mask=work.shared_mask,
            clean_fraction=0.0,
            sources=2,
            teacher=networks["mae"],
            teacher_input="image",
            distill_weight=1.0,
            contrast_weight=0.0,
            contrast_temperature=0.1,
            uniformity_weight=0.0,
        )
    mesh = sharding.make_mesh()
    optimizer = optim.adamw(optim.learning_rate(1e-4, 256, 1, 1000), (0.9, 0.95), 0.05)
    state = init_state(networks[work.kind], optimizer, 0, mesh)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, *image_shape), np.uint8)
    batch = sharding.batch_sharding(mesh)

    def take(images, number):
        return jax.lax.with_sharding_constraint(images, batch)

    step = make_train_step(objective, optimizer, mesh, take, state, max_skipped=1)
    start = time.perf_counter()
    compiled = step.lower(state, teacher_params, images, 1).compile()
    known = {"batch_size": batch_size, "compile_seconds": time.perf_counter() - start}
    # The compiler counts per device.
    known["gflop_compiled"] = mesh.size * compiled.cost_analysis()["flops"] / 1e9
    fractions = mask_ratio, work.predict_fraction
    counted = flops.count(networks["mae"], *fractions, work.kind, work.shared_mask)
    known["gflop_counted"] = batch_size * counted / 1e9
    memory = compiled.memory_analysis()
    known["temporary_gb"] = memory.temp_size_in_bytes / 1e9
    known["arguments_gb"] = memory.argument_size_in_bytes / 1e9

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state, metrics = compiled(state, teacher_params, images, 1)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return run, known


def serve() -> None:
    """Worker process: reads a step's specification, then runs the step for each line."""
    specification = json.loads(sys.stdin.readline())
    runtime.tune_malloc()
    run, known = make_step(Work(**specification.pop("work")), **specification)
    print(json.dumps(known), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": run()}), flush=True)


class Local:
    """A training step in this process, for accelerators."""

    def __init__(self, specification: dict):
        work = Work(**specification.pop("work"))
        self._run, self.known = make_step(work, **specification)

    def __call__(self) -> float:
        return self._run()

    def close(self) -> None:
        """Frees the device memory."""
        del self._run


def ours(work: Work, size: str, arguments) -> Worker | Local:
    """Starts our step."""
    sizes = dict(size=size, batch_size=arguments.batch_size)
    specification = {"work": work._asdict(), **sizes}
    if jax.default_backend() != "cpu":
        return Local(specification)
    return Worker([__file__, "--worker"], specification)


def start_peer(work: Work, size: str, arguments, compiled: bool) -> Worker:
    """Starts PyTorch's step of the same work."""
    image_shape, batch_size, mask_ratio, fields = describe(size, arguments.batch_size)
    network = build_autoencoder(
        name="mae", **fields, image_shape=image_shape, compute=layers.Compute()
    )
    specification = dict(
        kind=work.kind,
        dtype=work.dtype,
        shared_mask=work.shared_mask,
        image_shape=image_shape,
        batch_size=batch_size,
        mask_ratio=mask_ratio,
        patch_size=network.patch_size,
        encoder=network.encoder_size._asdict(),
        decoder=network.decoder_size._asdict(),
        compiled=compiled,
    )
    worker = Worker([str(Path(__file__).parent / "torch_peer.py")], specification)
    worker.known["batch_size"] = batch_size
    return worker


def measure(size: str, arguments, peaks: dict[str, float]) -> dict:
    """Measures all steps of one size; comparisons are named `ratio_vs_...`."""
    found = {}
    # In groups of steps to compare, so that each group fits in memory.
    for dtype in arguments.dtype:
        works = [Work(kind, dtype) for kind in arguments.kind]
        if "imae" in arguments.kind:
            works.append(Work("imae", dtype, shared_mask=True))
        runs = {str(work): ours(work, size, arguments) for work in works}
        found |= measure_together(runs, arguments.rounds)
        mae_step = found.get(str(Work("mae", dtype)))
        for work in works[1:] if mae_step else ():
            # The two ratios are equal if both steps are equally efficient.
            row = found[str(work)]
            row["ratio_vs_mae"] = row["seconds"] / mae_step["seconds"]
            row["ratio_vs_mae_counted"] = row["gflop_counted"] / mae_step["gflop_counted"]
        for work in works:
            if arguments.form and not work.shared_mask:
                found |= measure_forms(work, size, arguments)
            if arguments.decoder == "cross" and not work.shared_mask:
                found |= measure_decoder(work, size, arguments)
            if arguments.peer and not work.shared_mask:
                theirs, ratio = measure_peers(work, size, arguments)
                found |= theirs
                found[str(work)]["ratio_vs_pytorch_same_type"] = ratio
        for row in found.values():
            if "gflop_counted" in row and "share_of_matmul_peak" not in row:
                share = row["gflop_counted"] / row["seconds"] / peaks[dtype]
                row["share_of_matmul_peak"] = share / jax.device_count()
    for kind in arguments.kind if arguments.peer else ():
        for dtype in arguments.dtype:
            row = found[str(Work(kind, dtype))]
            best = row["ratio_vs_pytorch_same_type"]
            for name, peer in found.items():
                if name.startswith(f"{PEER} {kind} ") and dtype not in name:
                    best = min(best, peer["seconds"] / row["seconds"])
            row["ratio_vs_pytorch_best"] = best
    return found


def measure_forms(work: Work, size: str, arguments) -> dict:
    """Measures the other forms of a step relative to the plain one."""
    forms = {form: work._replace(form=form) for form in ("plain", *arguments.form)}
    runs = {form: ours(forms[form], size, arguments) for form in forms}
    found = measure_together(runs, arguments.rounds)
    plain = found.pop("plain")
    for row in found.values():
        row["ratio_vs_plain"] = row["seconds"] / plain["seconds"]
        row["ratio_vs_plain_memory"] = row["temporary_gb"] / plain["temporary_gb"]
    return {str(forms[form]): row for form, row in found.items()}


def measure_decoder(work: Work, size: str, arguments) -> dict:
    """Measures a step with cross-attention in its decoder relative to the full one."""
    cheaper = work._replace(decoder="cross", predict_fraction=arguments.predict_fraction)
    runs = {str(each): ours(each, size, arguments) for each in (work, cheaper)}
    found = measure_together(runs, arguments.rounds)
    full, row = found.values()
    for name, suffix in (("seconds", ""), ("gflop_counted", "_counted")):
        row[f"ratio_vs_full_decoder{suffix}"] = row[name] / full[name]
    return {str(cheaper): row}


def measure_peers(work: Work, size: str, arguments) -> tuple[dict, float]:
    """Measures PyTorch's steps of the same work, and the faster one's time over ours."""
    runs = {"ours": ours(work, size, arguments)}
    for form in ("eager", "compiled"):
        worker = start_peer(work, size, arguments, compiled=form == "compiled")
        runs[f"{PEER} {work} {form}"] = worker
    found = measure_together(runs, arguments.rounds)
    own = found.pop("ours")["seconds"]
    return found, min(row["seconds"] for row in found.values()) / own


def measure_together(runs: dict[str, Worker | Local], rounds: int) -> dict:
    """Times the steps alternately; returns their properties and times."""
    times = time_alternating(runs, rounds)
    found = {}
    for name, run in runs.items():
        run.close()
        seconds = statistics.median(times[name])
        found[name] = run.known | {
            "seconds": seconds,
            "seconds_fastest": times[name][0],
            "seconds_slowest": times[name][-1],
            "images_per_second": run.known["batch_size"] / seconds,
        }
    return found


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--kind", action="append", choices=("mae", "imae"))
    parser.add_argument("--dtype", action="append", choices=layers.DTYPES)
    parser.add_argument("--batch-size", type=int, help="unset: by size and platform")
    parser.add_argument("--form", action="append", default=[], choices=list(FORMS)[1:])
    parser.add_argument("--decoder", default="self", choices=DECODER_ATTENTIONS)
    parser.add_argument("--predict-fraction", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer", action="store_true", help="PyTorch too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return serve()
    if not 0 < arguments.predict_fraction <= 1:
        parser.error("--predict-fraction must be in (0, 1]")
    if arguments.predict_fraction < 1 and arguments.decoder == "self":
        parser.error("--predict-fraction below 1 needs --decoder=cross")
    arguments.kind = arguments.kind or ["mae", "imae"]
    arguments.dtype = arguments.dtype or list(layers.DTYPES)

    # Leaves GPU memory for PyTorch.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    peaks = matmul_peaks(2048 if jax.default_backend() == "cpu" else 8192)
    shown = ", ".join(f"{dtype} {peak:,.0f}" for dtype, peak in peaks.items())
    print(f"{device}, JAX {jax.__version__}; matrix products, GFLOP/s: {shown}")
    result = {"device": device, "jax": jax.__version__, "matmul_gflops": peaks}
    for size in arguments.size or list(SIZES)[1:]:
        result[size] = found = measure(size, arguments, peaks)
        batch_size = next(iter(found.values()))["batch_size"]
        print(f"\n{size}, batch {batch_size}")
        print(f"{'':36}{'ms':>8}{'spread':>16}{'images/s':>10}{'GFLOP':>7}{'of peak':>9}")
        for name, row in found.items():
            low, high = (1e3 * row[f"seconds_{end}"] for end in ("fastest", "slowest"))
            line = f"{name:36}{1e3 * row['seconds']:8.1f}{f'{low:.1f}-{high:.1f}':>16}"
            line += f"{row['images_per_second']:10.1f}"
            if "gflop_counted" in row:
                line += f"{row['gflop_counted']:7.0f}{row['share_of_matmul_peak']:9.0%}"
            print(line)
        for name, row in found.items():
            if ratios := {k: v for k, v in row.items() if k.startswith("ratio_vs_")}:
                print(name, *(f"{key} {value:.2f}" for key, value in ratios.items()))
            if "temporary_gb" in row:
                print(
                    f"{name}: compiled in {row['compile_seconds']:.1f} s, "
                    f"{row['temporary_gb']:.2f} GB temporary, "
                    f"{row['gflop_compiled']:.0f} GFLOP by the compiler"
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
