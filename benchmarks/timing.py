"""Timing for benchmarks: alternating calls, and peak matrix product speed."""

import statistics
import time

import jax
import jax.numpy as jnp

from imae_jax.models.layers import DTYPES

WARMUP_ROUNDS = 3


def time_alternating(runs: dict, rounds: int) -> dict[str, list[float]]:
    """Calls the functions alternately after warm-up; returns sorted seconds of each."""
    times = {name: [] for name in runs}
    for number in range(WARMUP_ROUNDS + rounds):
        for name, run in runs.items():
            seconds = run()
            # A step's memory is freed shortly after its results are ready; starting the
            # next earlier would allocate new memory, which the kernel has to clear.
            time.sleep(0.02)
            if number >= WARMUP_ROUNDS:
                times[name].append(seconds)
    return {name: sorted(values) for name, values in times.items()}


def matmul_peaks(width: int, rounds: int = 9) -> dict[str, float]:
    """GFLOP/s of square matrix products with float32 results, by operand type."""

    def make(dtype):
        matrix = jnp.ones((width, width), dtype)
        product = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))

        def run():
            start = time.perf_counter()
            product(matrix).block_until_ready()
            return time.perf_counter() - start

        return run

    times = time_alternating({dtype: make(dtype) for dtype in DTYPES}, rounds)
    return {
        dtype: 2 * width**3 / statistics.median(seconds) / 1e9
        for dtype, seconds in times.items()
    }
