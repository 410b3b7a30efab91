"""Sizes, recipe and augmentation of each data set. Sources as in `common`.

Decoders are half as wide as their encoders, as in the released code (384 -> 192, 768 ->
512): a head of equal width is an invertible map, which can leave nothing of the other image
out.
"""

from collections.abc import Callable

from ml_collections import ConfigDict, FieldReference

from configs.common import decoder, size

# Before the name of any data set that TFDS has prepared.
TFDS = "tfds:"


def parse_arg(arg: str | None) -> tuple[str, bool]:
    """ "DATASET[,runlocal]" -> (dataset, runlocal).

    `runlocal` is the same run shrunk to seconds on a CPU.
    """
    dataset, *options = (arg or "digits").split(",")
    if dataset not in PRESETS and not dataset.startswith(TFDS):
        known = ", ".join((*PRESETS, f"{TFDS}NAME"))
        raise ValueError(f"no preset for data set {dataset!r}; presets: {known}")
    unknown = [option for option in options if option != "runlocal"]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; options: runlocal")
    return dataset, bool(options)


def _without(config: ConfigDict, *evaluators: str) -> None:
    """Leaves evaluators out, where the config has them.

    `recognition` where a perceptron of pixels cannot read the images, as it can digits;
    `attributes` where only the class is known of them, which `semantics` reads;
    `segmentation` where they have no label maps.
    """
    for name in evaluators:
        if name in config.evals:
            del config.evals[name]


def digits(config: ConfigDict) -> None:
    """Handwritten digits, 8x8 grey: minutes on two CPU cores. All values: ours."""
    # Chosen on the validation split; wider and deeper ones learn less in the time. No
    # shift: digits fill their frame, and one pixel costs more than it brings (teacher's
    # validation error 0.93 of the mean image's with, 0.75 without, at 60 and 40 epochs).
    config.model.variant = "mu/2"
    config.model.encoder = size(64, 2, 4)
    config.model.decoder = decoder(32, 2, 4)  # half as wide, see above
    config.mask.ratio = 0.25  # a digit has only 16 patches
    config.train.batch_size = 32  # more updates in the time than larger ones
    config.train.total_epochs = 150.0
    config.optim.blr = 2.4e-2
    config.checkpoint.every_minutes = 0.25
    _without(config, "attributes", "segmentation")


def shapes(config: ConfigDict) -> None:
    """Procedural scenes, 32x32: sized for two CPU cores. All values: ours.

    Two minutes a run: five arms of a study with three seeds take 45 minutes.
    """
    config.model.variant = "mu/8"
    config.model.encoder = size(64, 4, 4)
    config.model.decoder = decoder(32, 2, 4)  # half as wide, see above
    config.mask.ratio = 0.5  # a scene has only 16 patches
    config.train.batch_size = 64
    config.train.total_epochs = 8.0
    config.optim.blr = 1.2e-2  # lower loss than at 4e-3
    config.checkpoint.every_minutes = 1.0
    config.data.evaluate_on.update(dict(train=4000, validation=1000, test=1000))
    _without(config, "recognition")


def cifar(config: ConfigDict) -> None:
    """CIFAR-10 and CIFAR-100, 32x32. Ours where no source is named."""
    config.model.variant = "Ti/2"  # author: ViT-Tiny, patches of 2x2
    config.model.decoder = decoder(96, 4, 3)  # half as wide, see above
    config.augment.pad = 4  # usual for CIFAR
    config.augment.pad_mode = "reflect"
    config.augment.flip = True
    # A common MAE recipe for CIFAR takes 4096 (pprp/MAE-CIFAR). Ours is scaled down.
    config.train.batch_size = 512
    # A common MAE recipe for CIFAR takes 2,000 (pprp/MAE-CIFAR). Ours is scaled down.
    config.train.total_epochs = 400.0
    config.data.evaluate_on.update(dict(train=10_000, validation=2000))
    _without(config, "recognition", "attributes", "segmentation")


def cifar10_small(config: ConfigDict) -> None:
    """CIFAR-10 for two CPU cores: coarser patches, a small network, few epochs. Ours."""
    cifar(config)
    config.data.name = "cifar10"
    config.model.variant = "mu/4"
    config.model.encoder = size(96, 4, 4)
    config.model.decoder = decoder(48, 2, 4)  # half as wide, see above
    config.train.batch_size = 64  # more updates in the time than larger ones
    config.train.total_epochs = 4.0  # ten minutes for a MAE, twice that for i-MAE
    config.optim.blr = 8e-3  # between those of digits and shapes
    config.checkpoint.every_minutes = 1.0
    config.data.evaluate_on.update(dict(train=5000, validation=1000, test=2000))


def tiny_imagenet(config: ConfigDict) -> None:
    """Tiny-ImageNet, 64x64. Ours where no source is named."""
    _photographs(config)
    _without(config, "segmentation")


def _photographs(config: ConfigDict) -> None:
    """Tiny-ImageNet's recipe. Ours where no source is named."""
    config.model.variant = "S/8"  # released code and author
    config.model.decoder = decoder(192, 6, 6)  # released code
    config.augment.crop_scale = (0.2, 1.0)  # MAE
    config.augment.flip = True  # MAE
    config.train.batch_size = 512
    config.train.total_epochs = 400.0
    config.data.evaluate_on.update(dict(train=10_000, validation=2000))
    _without(config, "recognition", "attributes")


def _files(config: ConfigDict) -> None:
    """Adds `data.files`: size, channels, crop and background of images from files. Ours."""
    config.data.files = ConfigDict()
    # Size in pixels that images are brought to: HEIGHT, or "HEIGHTxWIDTH".
    config.data.files.image_size = FieldReference(64, field_type=object)
    config.data.files.channels = 3  # 1: grey; 3: colours
    # Fraction of the largest central box that is shown in evaluation.
    config.data.files.centre = 1.0
    # What transparent images are laid on: a colour by name, or "#rrggbb".
    config.data.files.background = "white"
    # Folder of label maps, a PNG of pixels' classes for each image, for
    # `evals.segmentation`; empty: none.
    config.data.files.label_maps = ""


def folder(config: ConfigDict) -> None:
    """A user's own images; as Tiny-ImageNet, decoded from their files. Ours."""
    _photographs(config)
    _files(config)
    config.data.evaluate_on.update(dict(test=10_000))


def folder_small(config: ConfigDict) -> None:
    """A user's own images, some hundreds or more, for two CPU cores. All values: ours.

    And any data set that TFDS has prepared.
    """
    _files(config)
    if not config.data.name.startswith(TFDS):
        config.data.name = "folder"
    else:
        _without(config, "segmentation")
    # Images are decoded once, where they fit; crops would have to be cut out of the files.
    config.data.resident_gb = 0.5
    config.augment.pad = 4
    config.augment.pad_mode = "reflect"
    config.augment.flip = True
    config.model.variant = "mu/8"
    config.model.encoder = size(96, 4, 4)
    config.model.decoder = decoder(48, 2, 4)  # half as wide, see above
    config.train.batch_size = 32
    config.train.total_epochs = 100.0
    config.optim.blr = 1.2e-2
    config.checkpoint.every_minutes = 1.0
    config.data.evaluate_on.update(dict(train=5000, validation=1000, test=2000))
    if "probes" in config.evals:
        config.evals.probes.neighbours = 5  # a class may have few images
    _without(config, "recognition", "attributes")


def imagenet(config: ConfigDict) -> None:
    """ImageNet-1K, 224x224. Ours where no source is named."""
    folder(config)
    _without(config, "segmentation")
    config.data.name = "imagenet2012"  # as TFDS names it
    config.data.files.image_size = 224  # MAE
    config.data.files.centre = 224 / 256  # MAE
    config.model.variant = "B/16"  # released code
    config.model.decoder = decoder(512, 8, 16)  # released code
    if config.model.name == "mae":
        config.train.batch_size = 4096  # MAE
        config.train.total_epochs = 800.0  # MAE
        config.optim.warmup_epochs = 40.0  # MAE
    else:
        config.init = "teacher"  # both heads from its `decoder_embed` (released code)
        config.train.batch_size = 256  # released code
        config.train.total_epochs = 50.0  # released code
        config.optim.warmup_epochs = 5.0  # released code
        config.optim.blr = 1e-4  # released code
        # With more pictures of 224 pixels, a report would take 100 MB.
        config.explorer.pairs = 4
        config.explorer.alphas = (0.1, 0.2, 0.3, 0.4, 0.5)
        config.explorer.mask_ratios = (0.5, 0.75)
        config.explorer.batch_size = 16


PRESETS: dict[str, Callable[[ConfigDict], None]] = {
    "digits": digits,
    "shapes": shapes,
    "cifar10": cifar,
    "cifar100": cifar,
    "cifar10_small": cifar10_small,
    "tiny_imagenet": tiny_imagenet,
    "imagenet": imagenet,
    "folder": folder,
    "folder_small": folder_small,
}


def preset(dataset: str) -> Callable[[ConfigDict], None]:
    """The function of a data set's preset; "tfds:NAME" has that of `folder_small`."""
    return folder_small if dataset.startswith(TFDS) else PRESETS[dataset]
