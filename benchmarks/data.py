"""Benchmark of the input pipelines: throughput, and waiting of a training loop.

    python benchmarks/data.py [--seconds S] [--peer] [--json PATH]

* resident: 50,000 images of CIFAR's size are on the device; batches are indexed and
  augmented there, alone and inside a training step of MAE.
* streaming: JPEG files of ImageNet's size are decoded and cropped to 224x224 by threads,
  compared with the same decoding and cropping in a bare loop on as many cores, and with
  decoding alone. `--peer` adds Grain (if installed) doing the same work.
* waiting: the fraction of time spent waiting by a consumer that takes batches at 80 % of
  the measured rate.

The JPEG files are synthetic (1/f noise, about 110 kB each), the same on every machine.
"""

import argparse
import collections
import functools
import io
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from imae_jax import optim
from imae_jax.data import augment
from imae_jax.data.encoded_images import NUM_THREADS  # noqa: E402
from imae_jax.data.group_sampler import Groups  # noqa: E402
from imae_jax.data.image_io import NUM_DRAWS, random_box  # noqa: E402
from imae_jax.data.input_pipeline import Resident, Streaming  # noqa: E402
from imae_jax.data.load import load  # noqa: E402
from imae_jax.distributed import sharding  # noqa: E402
from imae_jax.models.factory import build_autoencoder
from imae_jax.models.layers import Compute  # noqa: E402
from imae_jax.objectives.base import Augmentation
from imae_jax.objectives.mae import MAEObjective
from imae_jax.objectives.mask_kinds import Masking
from imae_jax.training.state import init_state
from imae_jax.training.step import make_train_step

NUM_CIFAR, NUM_FILES = 50_000, 256
PHOTO = (375, 500)  # (height, width), the most frequent in ImageNet
SCALE = (0.2, 1.0)
PACE, AHEAD = 0.8, 2


def photo(seed: int) -> bytes:
    """Makes a JPEG file with the spectrum of a photograph."""
    random = np.random.default_rng(seed)
    rows = np.fft.fftfreq(PHOTO[0])[:, None]
    columns = np.fft.rfftfreq(PHOTO[1])[None]
    fall = 1 / np.maximum(np.hypot(rows, columns), 1 / 500) ** 1.1
    noise = np.fft.rfft2(random.normal(size=(3, *PHOTO))) * fall
    pixels = np.moveaxis(np.fft.irfft2(noise, PHOTO), 0, -1)
    pixels = 127 + 50 * pixels / pixels.std()
    file = io.BytesIO()
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.save(file, format="jpeg", quality=92)
    return file.getvalue()


def rate_of(run, batch_size: int, seconds: float) -> dict:
    """Images per second of `run(step)`: median and relative range of five parts."""
    run(0)
    step, rates = 1, []
    for _ in range(5):
        first, start = step, time.perf_counter()
        while time.perf_counter() - start < seconds / 5:
            run(step)
            step += 1
        rates.append((step - first) * batch_size / (time.perf_counter() - start))
    spread = (max(rates) - min(rates)) / statistics.median(rates)
    return {"images_per_second": statistics.median(rates), "spread": spread}


def share_waited(get, batch_size: int, rate: float, seconds: float) -> float:
    """Fraction of time that a consumer at `PACE` times `rate` waits for images.

    `get(step)` starts to make a batch and returns arrays to wait for. The consumer requests
    `AHEAD` batches in advance, as a training loop dispatches ahead, and is busy with each
    for `batch_size / (PACE * rate)` seconds.
    """
    period = batch_size / (PACE * rate)
    # The first batches cannot overlap with other work.
    asked_for = collections.deque(jax.block_until_ready(get(i)) for i in range(AHEAD))
    waited, step, start = 0.0, AHEAD, time.perf_counter()
    while time.perf_counter() - start < seconds:
        asked = time.perf_counter()
        asked_for.append(get(step))
        made = time.perf_counter()
        time.sleep(max(0.0, asked + period - made))
        late = time.perf_counter()
        jax.block_until_ready(asked_for.popleft())
        # Host time of the request counts if it exceeds the work that it overlaps with.
        waited += time.perf_counter() - late + max(0.0, made - asked - period)
        step += 1
    return waited / (time.perf_counter() - start)


def measure_resident(seconds: float) -> dict:
    """Measures the resident input pipeline at CIFAR's size, alone and inside a step."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (NUM_CIFAR, 32, 32, 3), np.uint8)
    mesh, batch_size = sharding.make_mesh(), 512 * jax.device_count()
    pairs = Groups(np.zeros(NUM_CIFAR, int), seed=0)
    feed = Resident(images, pairs, mesh, batch_size=batch_size, max_steps=1, sharded=False)
    options = dict(pad=4, pad_mode="reflect", flip=True, crop_scale=())

    @jax.jit
    def batch(inputs, step):
        key = jax.random.fold_in(jax.random.key(0), step)
        return augment.augment(key, feed.get_batch(inputs, 0), **options)

    found = {"batch_size": batch_size}
    found["alone"] = rate_of(
        lambda step: batch(feed.inputs(step), step).block_until_ready(),
        batch_size,
        seconds,
    )
    unset = dict(width=None, depth=None, heads=None)
    network = build_autoencoder(
        name="mae",
        variant="Ti/4",
        encoder=unset,
        decoder=dict(width=192, depth=4, heads=3, attention="self"),
        image_shape=(32, 32, 3),
        compute=Compute(),
    )
    optimizer = optim.adamw(optim.learning_rate(1e-4, 256, 1, 1000), (0.9, 0.95), 0.05)
    augmentation = Augmentation(mean=127.0, std=64.0, **options)
    masking = Masking(0.75, "random", content_weight=0.0, grid=network.grid)
    objective = MAEObjective(
        network, augmentation, masking, norm_pix=False, predict_fraction=1.0
    )
    state = init_state(network, optimizer, 0, mesh)
    train = make_train_step(
        objective, optimizer, mesh, feed.get_batch, state, max_skipped=1
    )
    waited = []

    def step(number):
        nonlocal state
        start, before = time.perf_counter(), feed.seconds_waited
        state, metrics = train(state, None, feed.inputs(number), 1)
        jax.block_until_ready(metrics)
        waited.append((feed.seconds_waited - before) / (time.perf_counter() - start))

    rate = found["alone"]["images_per_second"]
    found["share_waited_at_pace"] = share_waited(
        lambda step: batch(feed.inputs(step), step), batch_size, rate, seconds
    )
    found["with_step"] = rate_of(step, batch_size, seconds)
    found["with_step"]["share_waited"] = statistics.mean(waited[1:])
    return found


def on_all_cores(run, count: int) -> None:
    """Calls `run(index)` for every index below `count`, on `NUM_THREADS` threads."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        parts = np.array_split(np.arange(count), NUM_THREADS)
        list(pool.map(lambda part: [run(int(i)) for i in part], parts))


def measure_streaming(folder: Path, seconds: float, peer: bool) -> dict:
    """Measures the streaming input pipeline, bare decoding, and optionally Grain."""
    for index in range(NUM_FILES):
        path = folder / "train" / "any" / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(index))
    files = dict(image_size=224, channels=3, centre=0.875)
    split = load("folder", str(folder), files=files).splits["train"]
    count, images = len(split.images), split.images
    draws = np.random.default_rng(0).random((count, NUM_DRAWS))

    def crop(index: int) -> np.ndarray:
        box_of = functools.partial(random_box, scale=SCALE, draws=draws[index])
        return images.get(index, box_of)

    def decode_only(index: int) -> None:
        with Image.open(io.BytesIO(images.read(index))) as image:
            image.load()

    mesh, batch_size = sharding.make_mesh(), 64
    options = dict(seed=0, crop_scale=SCALE, on_bad_image="raise", prefetch=2)

    def make_feed():
        pairs = Groups(split.labels, seed=0)
        return Streaming(images, pairs, mesh, batch_size=batch_size, **options)

    found = {
        "threads": NUM_THREADS,
        "kilobytes_per_file": np.mean([len(images.read(i)) for i in range(count)]) / 1e3,
    }
    bare = {"decode": decode_only, "decode_and_crop": crop}
    with make_feed() as feed:
        runs = {
            name: (lambda step, run=run: on_all_cores(run, count), count)
            for name, run in bare.items()
        }
        runs["feed"] = lambda step: feed.inputs(step).block_until_ready(), batch_size
        for name, (run, size) in runs.items():
            found[name] = rate_of(run, size, seconds)
    rate = found["feed"]["images_per_second"]
    with make_feed() as feed:
        found["feed"]["share_waited_at_pace"] = share_waited(
            feed.inputs, batch_size, rate, seconds
        )
    if peer:  # last: its workers keep running in the background
        for name, (run, size) in grain_runs(crop, count, batch_size).items():
            found[name] = rate_of(run, size, seconds)
            found["feed"][f"ratio_vs_{name}"] = rate / found[name]["images_per_second"]
    for name in ("decode", "decode_and_crop", "feed"):
        per_second = found[name]["images_per_second"]
        found[name]["images_per_second_per_core"] = per_second / NUM_THREADS
    floor = found["decode_and_crop"]["images_per_second"]
    found["feed"]["ratio_vs_decode_and_crop"] = rate / floor
    return found


def grain_runs(crop, count: int, batch_size: int) -> dict:
    """Returns runs of Grain on the same work, with threads and with processes."""
    import grain
    from absl import flags

    flags.FLAGS(sys.argv[:1])  # Grain's processes read absl flags

    def batches(**options):
        data = grain.MapDataset.source(range(count)).seed(0).shuffle().repeat()
        data = data.map(crop)
        threads = grain.ReadOptions(num_threads=options.get("threads", 0))
        data = data.to_iter_dataset(threads).batch(batch_size)
        if "processes" in options:
            workers = grain.MultiprocessingOptions(num_workers=options["processes"])
            data = data.mp_prefetch(workers)
        return iter(data)

    iterators = {
        "grain_threads": batches(threads=NUM_THREADS),
        "grain_processes": batches(processes=NUM_THREADS),
    }
    return {
        name: (lambda step, it=it: jax.device_put(next(it)).block_until_ready(), batch_size)
        for name, it in iterators.items()
    }


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="per measurement")
    parser.add_argument("--peer", action="store_true", help="measure Grain too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    result = {"device": device, "cores": os.cpu_count(), "jax": jax.__version__}
    result["resident"] = measure_resident(arguments.seconds)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        result["streaming"] = measure_streaming(
            Path(folder) / "images", arguments.seconds, arguments.peer
        )
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
