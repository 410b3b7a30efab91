"""Ahead-of-time compilation of a config's training step, and its memory and FLOPs.

The step is compiled for absent devices; nothing is executed and no data are read.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax.data.builders.registry import FORMS
from imae_jax.data.encoded_images import EncodedImages, parse_size
from imae_jax.data.load import Dataset, Split
from imae_jax.distributed import sharding
from imae_jax.models.factory import as_mae, build_model
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.training import trained_run
from imae_jax.training.memory import over_limit
from imae_jax.training.setup import Setup, make_objective
from imae_jax.training.state import TrainState, fresh_state, init_params
from imae_jax.training.step import make_train_step

IMAGENET_CLASSES, IMAGENET_IMAGES = 1000, 1_281_167


def unseen_data(config: ConfigDict) -> Dataset:
    """Makes a placeholder data set of the right shapes."""
    name = config.data.name
    if name in FORMS:
        shape, num_classes, count = FORMS[name]
        images: np.ndarray | EncodedImages = np.broadcast_to(np.uint8(0), (count, *shape))
    else:
        files, count, num_classes = config.data.files, IMAGENET_IMAGES, IMAGENET_CLASSES
        size = parse_size(files.image_size, "data.files.image_size")
        shape = (*size, files.channels)
        # Never read.
        unread: dict[str, Any] = dict(names=range(count), read=None)
        images = EncodedImages(
            **unread, min_side=1, centre=1.0, size=shape[:2], channels=shape[2]
        )
    split = Split(images, np.zeros(count, int))
    mean, std = np.zeros(shape[2], np.float32), np.ones(shape[2], np.float32)
    return Dataset({"train": split}, mean, std, tuple(map(str, range(num_classes))))


def unseen_setup(config: ConfigDict, mesh: Mesh, platform: str) -> Setup:
    """Makes the set-up of a run; a teacher is a MAE of the student's sizes."""
    dataset = unseen_data(config)
    model = build_model(config, dataset.image_shape, len(dataset.class_names), platform)
    teacher = None
    if OBJECTIVES[config.model.name].is_distilled(config):
        network = as_mae(model)
        params = jax.eval_shape(functools.partial(init_params, network, 0))
        teacher = trained_run.TrainedRun(Path(), config, network, params, 0, {}, "")
    return Setup(config, Path(), dataset, mesh, model, teacher)


def placed(tree: Any, places: Any) -> Any:
    """Converts a pytree of arrays to `ShapeDtypeStruct`s with the given shardings."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        tree,
        places,
    )


class TracedStep(NamedTuple):
    """A traced training step on streamed batches.

    Attributes:
      traced: result of tracing the jitted step.
      state, teacher, batch: `ShapeDtypeStruct`s of its arguments, with shardings.
      resident: bytes per device of resident images, which are not among the arguments.
    """

    traced: jax.stages.Traced
    state: TrainState
    teacher: Any
    batch: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]
    resident: int


def trace(config: ConfigDict, mesh: Mesh, platform: str) -> TracedStep:
    """Traces the training step of a checked config."""
    setup = unseen_setup(config, mesh, platform)
    optimizer = setup.kind.optimizer(config, setup.model, lambda step: jnp.float32(1e-4))
    fresh = functools.partial(fresh_state, setup.model, optimizer, seed=0)
    state = jax.eval_shape(fresh)
    state = placed(state, sharding.fsdp_shardings(state, mesh))
    teacher = setup.teacher and setup.teacher.params
    teacher = placed(teacher, sharding.fsdp_shardings(teacher, mesh))
    size, shape = config.train.batch_size, setup.dataset.image_shape
    images = jax.ShapeDtypeStruct((size, *shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((size,), jnp.int32)
    rows = sharding.batch_sharding(mesh)
    batch = placed((images, labels), (rows, rows))
    is_labelled = setup.kind.is_labelled
    step = make_train_step(
        make_objective(setup),
        optimizer,
        mesh,
        lambda batch, number: batch if is_labelled else batch[0],
        state,
        accumulate=config.train.accumulate,
        max_skipped=config.optim.max_skipped,
    )
    resident = 0
    if setup.is_resident:
        parts = mesh.size if config.data.sharded else 1
        resident = setup.train_split.images.nbytes // parts
    return TracedStep(step.trace(state, teacher, batch, 1), state, teacher, batch, resident)


def bytes_each(tree: Any) -> int:
    """Bytes per device of a pytree of arrays."""
    return sum(
        x.dtype.itemsize * int(np.prod(x.sharding.shard_shape(x.shape)))
        for x in jax.tree.leaves(tree)
    )


class MemoryUse(NamedTuple):
    """Memory of a compiled step on each device, in bytes; None: unknown.

    Attributes:
      arguments: state, teacher, batch and resident images.
      temporaries: temporary memory of the step.
      peak: peak memory, including the program.
      limit: available memory.
    """

    arguments: int | None
    temporaries: int | None
    peak: int
    limit: int

    @property
    def fits(self) -> bool:
        """True if the peak is within the limit."""
        return self.peak <= self.limit


def compile_step(
    step: TracedStep, memory: int
) -> tuple[jax.stages.Compiled | None, MemoryUse]:
    """Compiles a step; returns it, or None if it does not fit, and its `MemoryUse`."""
    try:
        compiled = step.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        used = over_limit(error)
        if used is None:
            raise
        peak, limit = used
        return None, MemoryUse(None, None, peak + step.resident, limit)
    found = compiled.memory_analysis()
    # The compiler counts padding but not unused arguments (the teacher's decoder).
    arguments = max(found.argument_size_in_bytes, bytes_each(step[1:4])) + step.resident
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    temporaries = found.temp_size_in_bytes
    peak = arguments + new + temporaries + found.generated_code_size_in_bytes
    return compiled, MemoryUse(arguments, temporaries, peak, memory)


def count_flops(config: ConfigDict) -> float:
    """FLOPs of a step's forward and backward pass, without recomputation."""
    config = config.copy_and_resolve_references()
    config.compute.scan, config.compute.remat = False, "none"  # a loop is counted once
    config.train.accumulate = config.mesh.fsdp = 1
    step = trace(config, sharding.make_mesh(jax.devices()[:1]), jax.default_backend())
    return step.traced.lower().cost_analysis()["flops"]
