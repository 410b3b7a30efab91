"""Setup of a run from its config: data, devices, model, teacher and objective."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax import errors, runtime
from imae_jax.config import checks
from imae_jax.data import eval_splits, folder_layouts, image_files, image_names
from imae_jax.data.encoded_images import EncodedImages
from imae_jax.data.group_sampler import Groups
from imae_jax.data.input_pipeline import Resident, Streaming
from imae_jax.data.load import Dataset, Split, check_known, load
from imae_jax.distributed import processes, sharding
from imae_jax.evaluators.config_checks import check_evals
from imae_jax.models.classifier import Classifier
from imae_jax.models.factory import build_model
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.objectives.base import Augmentation, Objective
from imae_jax.objectives.select import OBJECTIVES, group_size
from imae_jax.storage import trackers
from imae_jax.storage.checkpoint import newest_meta
from imae_jax.storage.local_paths import local_path
from imae_jax.storage.workdir import as_json, check_same_config, settle_dtype
from imae_jax.training import trained_run

logger = logging.getLogger(__name__)

# Settings of JAX that change which random numbers a seed gives.
RANDOM_SETTINGS = (
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_random_seed_offset",
    "jax_threefry_partitionable",
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """Components of a training run, built from a checked config.

    Attributes:
      config, workdir: the run's config and folder.
      dataset: all splits.
      mesh: the devices.
      model: the network to train.
      teacher: the teacher's run, or None.
    """

    config: ConfigDict
    workdir: Path
    dataset: Dataset
    mesh: Mesh
    model: MAE | IMAE | Classifier
    teacher: trained_run.TrainedRun | None

    @property
    def train_split(self) -> Split:
        """The train split of the data set."""
        return self.dataset.splits["train"]

    @property
    def kind(self) -> type[Objective]:
        """Class of the run's objective."""
        return OBJECTIVES[self.config.model.name]

    @functools.cached_property
    def image_digests(self) -> dict[str, str]:
        """See `image_names.digests`; of a million names they take a second."""
        return image_names.digests(self.dataset)

    @property
    def is_resident(self) -> bool:
        """True if training images are stored on the devices."""
        return is_resident(self.config, self.train_split, self.mesh.size)

    @property
    def is_distilled(self) -> bool:
        """True if training uses the teacher."""
        return self.teacher is not None and self.kind.is_distilled(self.config)


def is_resident(config: ConfigDict, split: Split, num_devices: int) -> bool:
    """True to store images on the devices, False to stream batches, see `data.feed`."""
    if config.data.feed != "auto":
        return config.data.feed == "resident"
    # Encoded images are cropped at full size, before they are scaled down.
    if isinstance(split.images, EncodedImages) and config.augment.crop_scale:
        return False
    num_parts = num_devices if config.data.sharded else 1
    return split.images.nbytes / num_parts <= config.data.resident_gb * 1e9


def check(config: ConfigDict, workdir: Path) -> tuple[Dataset, Mesh]:
    """Checks everything that does not need the teacher; returns data set and mesh.

    Expects `compute.dtype` to be settled, see `workdir.settle_dtype`.
    """
    checks.check_keys(config)
    trackers.check_installed(config.log.to)
    check_same_config(config, workdir)
    dataset = load_data(config)
    if dataset.ignored:
        ignored = folder_layouts.as_words(dataset.ignored)
        logger.info(f"{config.data.dir}: no images by their endings, so ignored: {ignored}")
    checks.check_mesh(config.mesh.fsdp, jax.device_count())
    mesh = sharding.make_mesh(fsdp=config.mesh.fsdp)
    checks.check(config, dataset, mesh.size, jax.default_backend())
    if not is_resident(config, dataset.splits["train"], mesh.size):
        dispatch = config.train.steps_per_dispatch
        allowed = "1 where images are streamed: a batch is sent for each step"
        errors.require(dispatch == 1, "train.steps_per_dispatch", dispatch, allowed)
    model = _build_model(config, dataset)
    check_evals(config, model, dataset.sizes, mesh.size)
    return dataset, mesh


def _build_model(config: ConfigDict, dataset: Dataset) -> MAE | IMAE | Classifier:
    return build_model(config, dataset.image_shape, len(dataset.class_names))


def load_data(config: ConfigDict) -> Dataset:
    """Opens the data set of a config whose keys have been checked."""
    return load(
        config.data.name,
        config.data.dir,
        on_bad_image=config.data.on_bad_image,
        files=config.data.get("files"),
        min_side=checks.patch_size(config),
    )


def open_files(config: ConfigDict) -> image_files.Opened:
    """Opens the image files of a config's data set; as `load_data`, decoding none."""
    data = config.data
    check_known(data.name, data.get("files"))
    root = local_path(data.dir, "data.dir")
    return image_files.open_files(data.name, root, data.files, checks.patch_size(config))


def set_up(config: ConfigDict, workdir: Path) -> Setup:
    """Checks the config, and loads data and teacher; nothing is compiled yet."""
    config = config.copy_and_resolve_references()
    settle_dtype([config], [workdir])
    dataset, mesh = check(config, workdir)
    model = _build_model(config, dataset)
    teacher = None
    if "teacher" in config and config.teacher.init:
        teacher = trained_run.load_teacher(config.teacher.init, model, "teacher.init", mesh)
        places = sharding.fsdp_shardings(teacher.params, mesh)
        params = jax.device_put(teacher.params, places)
        teacher = dataclasses.replace(teacher, params=params)
        known = teacher.meta.get("images", {})
        is_same_folder = teacher.config.data.dir == config.data.dir
        if is_same_folder and image_names.is_drawn_anew(dataset, known):
            logger.warning(
                f"{config.data.dir} held other files when the teacher was trained, so that "
                "the teacher may have seen images that are held out now"
            )
    dataset = _in_units_of_its_networks(config, workdir, dataset, teacher)
    found = Setup(config, workdir, dataset, mesh, model, teacher)
    known = dataset.image_shape, dataset.class_names, sorted(dataset.sizes.items())
    what = f"the data set in data.dir={config.data.dir!r}"
    processes.require_same(what, f"{known} {sorted(found.image_digests.items())}")
    return found


def _in_units_of_its_networks(
    config: ConfigDict,
    workdir: Path,
    dataset: Dataset,
    teacher: trained_run.TrainedRun | None,
) -> Dataset:
    """Returns the data set with the pixel statistics of what the run begins with.

    Of its own checkpoint, its teacher, or the run named by `init`: a trained network shown
    pixels in other units computes something else. Else they are the data set's own.
    """
    path, found = workdir, newest_meta(workdir)
    if found is None and (teacher or config.init):
        path = teacher.workdir if teacher else local_path(config.init, "init")
        found = newest_meta(path)
    _, meta = found or (0, {})
    # Another number of channels is refused later.
    if len(meta.get("mean", ())) != len(dataset.mean):
        return dataset
    mean, std = (np.array(meta[name], np.float32) for name in ("mean", "std"))
    pairs = (mean, dataset.mean), (std, dataset.std)
    if not all(np.allclose(x, y, rtol=1e-4) for x, y in pairs):
        logger.info(
            f"pixels are normalized as for {path}: mean "
            f"{_as_words(mean)}, std {_as_words(std)}; of these images they are "
            f"{_as_words(dataset.mean)} and {_as_words(dataset.std)}"
        )
    return dataclasses.replace(dataset, mean=mean, std=std)


def _as_words(values: np.ndarray) -> str:
    return "/".join(f"{value:.1f}" for value in values)


def make_objective(setup: Setup) -> Objective:
    """Makes the objective of a run."""
    config, dataset = setup.config, setup.dataset
    section = config.augment
    options = section.pad, section.pad_mode, section.flip, section.crop_scale
    augmentation = Augmentation(dataset.mean, dataset.std, *options)
    if not setup.is_resident and isinstance(setup.train_split.images, EncodedImages):
        # The input pipeline has already cropped them.
        augmentation = dataclasses.replace(augmentation, crop_scale=())
    teacher: Any = setup.teacher and setup.teacher.model  # a MAE or None
    return setup.kind.from_config(config, setup.model, teacher, augmentation)


def make_feed(setup: Setup) -> Resident | Streaming:
    """Makes the input pipeline of the train split."""
    config, split = setup.config, setup.train_split
    data, batch_size = config.data, config.train.batch_size
    num_images = len(split.images)
    if setup.is_resident:
        # Training needs no label maps, so none is read, and a bad one costs no image.
        split = eval_splits.decoded(split.without_label_maps(), data.on_bad_image)
    rate = config.mix.same_class_rate if "mix" in config else None
    groups = Groups(split.labels, config.seed, rate, group_size(config))
    if rate is not None:
        say_achieved_rate(groups, rate)
    if setup.is_resident:
        where = "split over the devices" if data.sharded else "on each device"
        size = f"{split.images.nbytes / 1e6:,.0f} MB of images {where}"
        logger.info(f"data.feed={data.feed}: resident, {size}")
        return Resident(
            split.pixels,
            groups,
            setup.mesh,
            batch_size=batch_size,
            max_steps=config.train.steps_per_dispatch,
            sharded=data.sharded,
            num_skipped=num_images - len(split.images),
        )
    logger.info(f"data.feed={data.feed}: streaming, batches are sent step by step")
    return Streaming(
        split.images,
        groups,
        setup.mesh,
        batch_size=batch_size,
        seed=config.seed,
        crop_scale=config.augment.crop_scale,
        on_bad_image=data.on_bad_image,
        prefetch=data.prefetch,
    )


def say_achieved_rate(pairs: Groups, wanted: float) -> None:
    """Logs if the classes do not allow the wanted fraction of pairs of equal class."""
    achieved = pairs.same_class_rate(0)
    assert achieved is not None, "the config's checks ask for classes"
    if abs(achieved - wanted) * pairs.per_epoch >= 1:
        logger.info(
            f"mix.same_class_rate={wanted}: the classes allow {achieved:.4f}, "
            f"{round(achieved * pairs.per_epoch):,} of {pairs.per_epoch:,} pairs"
        )


def batch_getter(setup: Setup, feed: Resident | Streaming) -> Callable:
    """Returns the feed's function that makes a step's batch from its inputs."""
    return feed.get_labelled_batch if setup.kind.is_labelled else feed.get_batch


def random_settings() -> dict[str, bool | int | str]:
    """Returns the settings of JAX that change random numbers, by name."""
    return {name: getattr(jax.config, name) for name in RANDOM_SETTINGS}


def run_meta(setup: Setup) -> dict:
    """Returns the metadata stored with each checkpoint of a run."""
    teacher, dataset = setup.teacher, setup.dataset
    return {
        "image_shape": list(dataset.image_shape),
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
        "class_names": list(dataset.class_names),
        "sizes": dataset.sizes,
        "images": setup.image_digests,
        "teacher": teacher and {"step": teacher.step, "digest": teacher.digest},
        "config": as_json(setup.config),
        "random_settings": random_settings(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "versions": {name: metadata.version(name) for name in runtime.PACKAGES},
    }
