"""Input pipelines: images resident on the devices, or batches streamed from the host.

Batches are a function of seed and step, the same on any number of devices and processes,
so checkpoints hold no state of the pipeline.
"""

import abc
import functools
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh

from imae_jax.data.encoded_images import NUM_THREADS, EncodedImages, with_remedy
from imae_jax.data.group_sampler import Groups
from imae_jax.data.image_io import NUM_DRAWS, BadImageError, random_box
from imae_jax.distributed import sharding

logger = logging.getLogger(__name__)

LabelledBatch = tuple[jax.Array, jax.Array]  # images and labels


class Feed(abc.ABC):
    """Base class of the input pipelines; a context manager.

    Attributes:
      seconds_waited: seconds that the training loop has waited for data.
      num_skipped: number of unusable images met so far.
    """

    seconds_waited = 0.0

    def __init__(self, groups: Groups, mesh: Mesh, batch_size: int):
        self._groups, self._mesh, self._batch_size = groups, mesh, batch_size
        self._per_step = batch_size // groups.size

    def __enter__(self) -> Self:
        return self

    @abc.abstractmethod
    def __exit__(self, *exc_info: object) -> None: ...

    @property
    @abc.abstractmethod
    def num_skipped(self) -> int: ...

    @abc.abstractmethod
    def _inputs(self, step: int, num_steps: int) -> Any: ...

    def inputs(self, step: int, num_steps: int = 1) -> Any:
        """Returns the inputs of `take` for steps `step` to `step + num_steps - 1`."""
        started = time.perf_counter()
        inputs = self._inputs(step, num_steps)
        self.seconds_waited += time.perf_counter() - started
        return inputs

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the data metrics that are logged at a step."""
        epoch = step * self._per_step // self._groups.per_epoch
        rate = self._groups.same_class_rate(epoch)
        found = {} if rate is None else {"same_class_rate": rate}
        return found | ({"skipped_images": self.num_skipped} if self.num_skipped else {})


class Resident(Feed):
    """Input pipeline with all images on the devices, indexed there at each step."""

    # Keyword options: keys of a config.
    def __init__(
        self,
        images: np.ndarray,
        groups: Groups,
        mesh: Mesh,
        *,
        batch_size: int,
        max_steps: int,
        sharded: bool,
        num_skipped: int = 0,
    ):
        """Sends the images, [N, H, W, C] uint8, to the devices.

        Args:
          images: training images.
          groups: groups of indices into `images`.
          mesh: device mesh; each device gets a copy, or, if `sharded`, an equal shard.
          batch_size: B.
          max_steps: largest number of steps per dispatch.
          sharded: save the copies at the cost of a reduce-scatter of the batch per step.
          num_skipped: number of images already left out.
        """
        super().__init__(groups, mesh, batch_size)
        self._sharded, self._max_steps = sharded, max_steps
        self._num_skipped = num_skipped
        place = sharding.replicated(mesh)
        if sharded:
            place = sharding.batch_sharding(mesh)
            padding = -len(images) % mesh.size
            images = np.pad(images, ((0, padding), *[(0, 0)] * 3))
        self._images = sharding.put(images, place)
        labels = groups.labels.astype(np.int32)
        self._labels = sharding.put(labels, sharding.replicated(mesh))
        # Draws the next epoch's groups in the background.
        self._drawer = ThreadPoolExecutor(1)
        self._windows: dict[int, Future] = {}

    def __exit__(self, *exc_info: object) -> None:
        self._drawer.shutdown(cancel_futures=True)

    @property
    def num_skipped(self) -> int:
        return self._num_skipped

    def _make_window(self, epoch: int) -> jax.Array:
        """Groups of `epoch` and of the following epochs that one dispatch can reach.

        The shape is the same for every epoch, so nothing is recompiled.
        """
        per_epoch = self._groups.per_epoch
        num_groups = per_epoch - 1 + self._max_steps * self._per_step
        epochs = [self._groups.epoch(epoch + i) for i in range(-(-num_groups // per_epoch))]
        window = np.concatenate(epochs).astype(np.int32)
        return sharding.put(window, sharding.replicated(self._mesh))

    def _inputs(self, step: int, num_steps: int) -> Any:
        epoch, first = divmod(step * self._per_step, self._groups.per_epoch)
        self._windows = {
            ahead: self._windows.get(ahead) or self._drawer.submit(self._make_window, ahead)
            for ahead in (epoch, epoch + 1)
        }
        window = self._windows[epoch].result()
        return self._images, window, np.int32(first), self._labels

    def _indices(self, inputs: Any, number: jax.Array) -> jax.Array:
        """Indices [B] of the images of the `number`-th step."""
        _, window, first, _ = inputs
        start = first + number * self._per_step
        return jax.lax.dynamic_slice_in_dim(window, start, self._per_step).reshape(-1)

    def _look_up(self, array: jax.Array, indices: jax.Array) -> jax.Array:
        """Returns `array[indices]`, sharded by batch, of a replicated array."""
        batch = sharding.batch_sharding(self._mesh)
        return array[jax.lax.with_sharding_constraint(indices, batch)]

    def get_batch(self, inputs: Any, number: jax.Array) -> jax.Array:
        """Returns the images [B, H, W, C] of the `number`-th step, inside jit."""
        images, indices = inputs[0], self._indices(inputs, number)
        if self._sharded:
            return sharding.gather_from_shards(images, indices, self._mesh)
        return self._look_up(images, indices)

    def get_labelled_batch(self, inputs: Any, number: jax.Array) -> LabelledBatch:
        """Returns images [B, H, W, C] and labels [B], inside jit."""
        labels = self._look_up(inputs[-1], self._indices(inputs, number))
        return self.get_batch(inputs, number), labels


class Streaming(Feed):
    """Input pipeline that decodes and crops images in threads and prefetches batches."""

    # Keyword options: keys of a config.
    def __init__(
        self,
        images: np.ndarray | EncodedImages,
        groups: Groups,
        mesh: Mesh,
        *,
        batch_size: int,
        seed: int,
        crop_scale: tuple[float, float] | tuple[()],
        on_bad_image: str,
        prefetch: int,
    ):
        """Starts no work yet.

        Args:
          images: training images.
          groups: groups of indices into `images`.
          mesh: device mesh; a process makes only its own devices' rows of a batch.
          batch_size: B.
          seed: seed of the crops.
          crop_scale: see `image_io.random_box`; (): central crops.
          on_bad_image: "raise", or "skip" to use the next usable image instead.
          prefetch: number of batches made ahead.
        """
        super().__init__(groups, mesh, batch_size)
        self._images, self._seed = images, seed
        self._sharding = sharding.batch_sharding(mesh)
        self._crop_scale, self._on_bad_image = crop_scale, on_bad_image
        self._rows = sharding.local_rows(self._sharding, batch_size)
        self._prefetch = prefetch
        self._batches: dict[int, Future] = {}
        # One thread assembles batches from what the decoders return.
        self._sender = ThreadPoolExecutor(1)
        self._decoders = ThreadPoolExecutor(NUM_THREADS)
        self._bad: set[int] = set()

    def __exit__(self, *exc_info: object) -> None:
        for pool in (self._decoders, self._sender):
            pool.shutdown(cancel_futures=True)

    @property
    def num_skipped(self) -> int:
        return len(self._bad)

    def _inputs(self, step: int, num_steps: int) -> Any:
        assert num_steps == 1, "a batch is sent for each step"
        for ahead in range(step, step + 1 + self._prefetch):
            if ahead not in self._batches:
                self._batches[ahead] = self._sender.submit(self._make, ahead)
        return self._batches.pop(step).result()

    def get_batch(self, inputs: Any, number: jax.Array) -> jax.Array:
        """Returns the images [B, H, W, C] of the step, inside jit."""
        return self.get_labelled_batch(inputs, number)[0]

    def get_labelled_batch(self, inputs: Any, number: jax.Array) -> LabelledBatch:
        """Returns images [B, H, W, C] and labels [B], inside jit."""
        del number
        return jax.lax.with_sharding_constraint(inputs, (self._sharding, self._sharding))

    def _make(self, step: int) -> LabelledBatch:
        images, labels = (
            jax.make_array_from_process_local_data(self._sharding, part)
            for part in self.local_batch(step)
        )
        return images, labels

    def local_batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Makes this process's part of a step's batch.

        Returns:
          [B / processes, H, W, C] uint8 images and [B / processes] int32 labels.
        """
        indices = self._groups.batch(step, self._batch_size)[self._rows]
        labels = self._groups.labels.astype(np.int32)
        if not isinstance(self._images, EncodedImages):
            return np.asarray(self._images[indices]), labels[indices]
        draws = np.random.default_rng((self._seed, step, 1)).random(
            (self._batch_size, NUM_DRAWS)
        )[self._rows]
        found = np.empty((len(indices), *self._images.shape[1:]), np.uint8)
        used = np.empty(len(indices), int)

        size = self._groups.size

        def fill(group: int) -> None:
            places = range(size * group, size * (group + 1))
            taken = {int(indices[place]) for place in places}
            for place in places:
                index = int(indices[place])
                found[place], used[place] = self._usable(index, taken, draws[place])

        for _ in self._decoders.map(fill, range(len(indices) // size)):
            pass
        return found, labels[used]

    def _usable(
        self, index: int, taken: set[int], draws: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Decodes image `index`, or the next usable one that is not in `taken`.

        Returns:
          [H, W, C] uint8 and its index.
        """
        assert isinstance(self._images, EncodedImages)
        box_of = None
        if self._crop_scale:
            height, width = self._images.size
            form: dict[str, Any] = dict(draws=draws, aspect=width / height)
            box_of = functools.partial(random_box, scale=self._crop_scale, **form)
        for candidate in _from(index, self._groups.labels, taken):
            if candidate in self._bad:
                continue
            try:
                found = self._images.get(candidate, box_of)
            except BadImageError as error:
                if self._on_bad_image == "raise":
                    raise with_remedy(error) from error
                logger.warning("skipped: %s", error)
                self._bad.add(candidate)
                continue
            taken.add(candidate)
            return found, candidate
        raise BadImageError(f"too few of the {len(self._images)} images can be used")


def _from(index: int, labels: np.ndarray, taken: set[int]) -> Iterator[int]:
    """Yields `index`, then those after it that are not taken, its own class first."""
    yield index
    ahead = np.roll(np.arange(len(labels)), -index)[1:]
    is_same = labels[ahead] == labels[index]
    for candidate in np.concatenate([ahead[is_same], ahead[~is_same]]).tolist():
        if candidate not in taken:
            yield candidate
