"""The block of lines that a training run begins with."""

import jax
import optax

from imae_jax.training import memory
from imae_jax.training.setup import Setup
from imae_jax.training.state import TrainState


def describe(
    setup: Setup,
    state: TrainState,
    schedule: optax.Schedule,
    total_steps: int,
    warmup_steps: int,
) -> str:
    """Describes a run before its first step: model, data, duration, device and folder.

    Args:
      setup: the run.
      state: what it starts or resumes from.
      schedule: its learning rate by step.
      total_steps, warmup_steps: its duration, see `optim.run_steps`.
    """
    rows = {
        "model": _model(setup, state),
        "start": _start(setup, int(state.step)),
        "teacher": setup.is_distilled
        and setup.teacher
        and f"{setup.teacher.workdir}, step {setup.teacher.step:,}",
        "data": _data(setup),
        "steps": _steps(setup, total_steps),
        "rate": _rate(setup, schedule, warmup_steps),
        "device": _device(setup),
        "folder": str(setup.workdir),
    }
    lines = [f"{setup.workdir.name}: {setup.kind.title}"]
    return "\n".join(lines + [f"  {name:<9}{row}" for name, row in rows.items() if row])


def _model(setup: Setup, state: TrainState) -> str:
    model = setup.model
    count = sum(x.size for x in jax.tree.leaves(state.params))
    size = model.encoder_size
    text = f"encoder {size.depth} x {size.width}"
    if model.has_decoder:
        text += f", decoder {model.decoder_size.depth} x {model.decoder_size.width}"
    return (
        f"{text} (blocks x width), patches of {model.patch_size} px: {count:,} parameters"
    )


def _start(setup: Setup, step: int) -> str:
    if step:
        return f"resumes at step {step:,}"
    init = setup.config.init
    return f"the weights of {init}" if init else "random weights"


def _data(setup: Setup) -> str:
    height, width, channels = setup.dataset.image_shape
    count = len(setup.train_split.images)
    return f"{setup.config.data.name}, {count:,} images of {height} x {width} x {channels}"


def _steps(setup: Setup, total_steps: int) -> str:
    batch_size = setup.config.train.batch_size
    per_epoch = len(setup.train_split.images) / batch_size
    epochs = f"{total_steps / per_epoch:.3g} epochs of {per_epoch:.4g} steps"
    return f"{total_steps:,} of {batch_size:,} images each: {epochs}"


def _rate(setup: Setup, schedule: optax.Schedule, warmup_steps: int) -> str:
    peak, last = float(schedule(warmup_steps)), setup.config.optim.min_lr
    return f"{peak:.3g} after {warmup_steps:,} steps, then a cosine to {last:g}"


def _device(setup: Setup) -> str:
    devices = setup.mesh.devices.flat
    text = f"{setup.mesh.size} x {devices[0].device_kind}, {setup.config.compute.dtype}"
    room = memory.room(setup.mesh.local_devices[0])
    if room is None:
        return text
    return f"{text}; {memory.in_words(room.free)} {room.limited_by} are free"
