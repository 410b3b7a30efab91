"""How fast a training step is, and how close to what the machine can do.

    python benchmarks/step.py [--size digits --size Ti/4 ...] [--json PATH]

Measures MAE and i-MAE (both source images through the teacher) in one run, alternating,
and a large matrix product as the machine's peak. Prints a table, and JSON with `--json`.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from configs import mae  # noqa: E402
from imae_jax import model, optim, sharding, steps  # noqa: E402

UNSET = dict(width=None, depth=None, heads=None)
# Image shape, batch, mask ratio, encoder and decoder of each size.
SIZES = {
    "digits": None,  # the demo's, from configs/
    "Ti/4": ((32, 32, 3), 256, 0.75, UNSET, dict(width=192, depth=4, heads=3)),
    "Ti/2": ((32, 32, 3), 64, 0.75, UNSET, dict(width=192, depth=4, heads=3)),
    "B/16": ((224, 224, 3), 8, 0.75, UNSET, dict(width=512, depth=8, heads=16)),
}


def describe(size: str):
    """Returns (image shape, batch, mask ratio, fields of `model.build`)."""
    if size == "digits":
        config = mae.get_config("digits")
        fields = {key: value for key, value in config.model.items() if key != "name"}
        return (8, 8, 1), config.train.batch_size, config.mask.ratio, fields
    image_shape, batch_size, mask_ratio, encoder, decoder = SIZES[size]
    fields = dict(variant=size, encoder=encoder, decoder=decoder)
    return image_shape, batch_size, mask_ratio, fields


def make_step(name: str, size: str):
    """Returns a function that runs one training step, and the step's compiled FLOPs."""
    image_shape, batch_size, mask_ratio, fields = describe(size)
    networks = {
        kind: model.build(name=kind, **fields, image_shape=image_shape)
        for kind in ("mae", "imae")
    }
    loss = dict(mask_ratio=mask_ratio, norm_pix=False)
    teacher_params = None
    if name == "mae":
        objective = steps.mae_objective(networks["mae"], **loss)
    else:
        teacher_params = steps.init_params(networks["mae"], 1)
        objective = steps.imae_objective(
            networks["imae"],
            networks["mae"],
            **loss,
            alpha=None,
            per_batch=False,
            shared_mask=False,
            teacher_input="image",
            distill_weight=1.0,
        )
    mesh = sharding.make_mesh()
    optimiser = optim.adamw(optim.learning_rate(1e-4, 256, 1, 1000), (0.9, 0.95), 0.05)
    state = steps.init_state(networks[name], optimiser, 0, mesh)
    loss = steps.make_loss(
        objective, seed=0, mean=0.0, std=255.0, pad=1, flip=True, crop_scale=()
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, *image_shape), np.uint8)
    batch = sharding.batch_sharding(mesh)

    def take(images, number):
        return jax.lax.with_sharding_constraint(images, batch)

    step = steps.make_train_step(loss, optimiser, mesh, take, looped=False)
    start = time.perf_counter()
    compiled = step.lower(state, teacher_params, images, 1).compile()
    compile_seconds = time.perf_counter() - start
    flops = compiled.cost_analysis()["flops"]

    def run():
        nonlocal state
        state, metrics = compiled(state, teacher_params, images, 1)
        jax.block_until_ready(metrics)

    return run, flops, compile_seconds, batch_size


def matmul_peak(width: int = 2048) -> float:
    """FLOP/s of a square float32 matrix product."""
    matrix = jnp.ones((width, width))
    product = jax.jit(lambda x: x @ x)
    seconds = time_alternating({"matmul": lambda: product(matrix).block_until_ready()}, 2)
    return 2 * width**3 / seconds["matmul"]


def time_alternating(runs: dict, seconds: float) -> dict[str, float]:
    """Median seconds of each function, called in turns for about `seconds` each."""
    times = {name: [] for name in runs}
    for run in runs.values():
        run()
    while (
        sum(map(sum, times.values())) < seconds * len(runs)
        or len(times[next(iter(runs))]) < 5
    ):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--seconds", type=float, default=10, help="per step function")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    device = jax.devices()[0].device_kind
    result = {"device": f"{jax.device_count()} x {device}", "jax": jax.__version__}
    result["matmul_gflops"] = peak = matmul_peak() / 1e9
    print(f"{result['device']}, float32 matmul peak {peak:.0f} GFLOP/s")
    print(
        f"{'size':8}{'model':8}{'batch':>7}{'ms':>9}{'images/s':>10}{'GFLOP/s':>9}", end=""
    )
    print(f"{'of peak':>9}{'compile s':>11}")
    for size in arguments.size or ["digits"]:
        made = {name: make_step(name, size) for name in ("mae", "imae")}
        runs = {name: run for name, (run, *_) in made.items()}
        medians = time_alternating(runs, arguments.seconds)
        result[size] = {}
        for name, (_, flops, compile_seconds, batch_size) in made.items():
            rate = flops / medians[name] / 1e9
            result[size][name] = {
                "batch_size": batch_size,
                "seconds": medians[name],
                "images_per_second": batch_size / medians[name],
                "gflop_per_step": flops / 1e9,
                "share_of_matmul_peak": rate / peak,
                "compile_seconds": compile_seconds,
            }
            print(
                f"{size:8}{name:8}{batch_size:7d}{1e3 * medians[name]:9.1f}"
                f"{batch_size / medians[name]:10.0f}{rate:9.0f}{rate / peak:9.0%}"
                f"{compile_seconds:11.1f}"
            )
        result[size]["ratio_vs_mae"] = medians["imae"] / medians["mae"]
        print(f"{size:8}i-MAE step / MAE step: {result[size]['ratio_vs_mae']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
