"""A class for each image: a linear probe, fine-tuning, or training from scratch.

python main.py train --config=configs/transfer.py:shapes,linear \\
    --config.init=runs/shapes/imae --workdir=runs/shapes/probe
python main.py eval --workdir=runs/shapes/probe
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common, datasets

MODES = ("linear", "finetune", "scratch")


def parse_arg(arg: str | None) -> tuple[str, str, bool]:
    """ "DATASET,MODE[,runlocal]" -> (dataset, mode, runlocal)."""
    dataset, *options = (arg or "digits,linear").split(",")
    modes = [option for option in options if option in MODES]
    others = [option for option in options if option not in MODES]
    dataset, runlocal = datasets.parse_arg(",".join([dataset, *others]))
    if len(modes) != 1:
        known = ", ".join(MODES)
        raise ValueError(f"{arg!r} must name one of {known}, such as '{dataset},linear'")
    return dataset, modes[0], runlocal


def linear(config: ConfigDict, dataset: str) -> None:
    """MAE's linear probe: heads on the frozen encoder, trained with LARS."""
    # Pooled features, each with a BatchNorm and a head of its own. Ours: both, where MAE
    # takes the class token.
    config.model.pools = ("class_token", "mean")
    for name in ("betas", "weight_decay", "clip_norm"):  # LARS has none
        del config.optim[name]
    config.train.total_epochs = 90.0  # MAE
    config.optim.warmup_epochs = 10.0  # MAE
    if dataset == "imagenet":
        config.train.batch_size = 16_384  # MAE
        config.optim.blr = 0.1  # MAE
    elif datasets.preset(dataset) is datasets.folder_small:
        config.train.batch_size = 32  # few images (ours)
        # MAE's peak rate at this batch, as below (ours).
        config.optim.blr = 6.4
    else:
        config.train.batch_size = 256  # leaves small data sets enough steps (ours)
        # MAE's peak rate, 0.1 * 16,384 / 256, at this batch. On digits' validation split,
        # a tenth of it loses 0.2 to 0.3 of accuracy, ten times it gains nothing and the
        # loss blows up. Ours.
        config.optim.blr = 6.4


def full(config: ConfigDict, dataset: str) -> None:
    """MAE's fine-tuning of ViT-B on ImageNet; scaled down, openly, on other data sets.

    MAE where no other source is named.
    """
    # Pooled features: the mean of the patch tokens (MAE; released code: the class token).
    config.model.pools = ("mean",)
    config.model.drop_path = 0.1  # chance that a block is left out of a step (MAE)
    config.train.batch_size = 1024  # MAE
    config.train.total_epochs = 100.0  # MAE
    config.optim.warmup_epochs = 5.0  # MAE
    config.optim.blr = 5e-4  # MAE; released code: 5e-5, for 20 epochs
    config.optim.min_lr = 1e-6  # MAE
    config.optim.betas = (0.9, 0.999)  # MAE: PyTorch's default
    # Learning rate of each layer, as a fraction of that of the next (MAE).
    config.optim.layer_decay = 0.65
    # Decay of a moving average of the parameters, which `eval` then scores; unset: none
    # (MAE).
    config.optim.ema_decay = placeholder(float)

    config.mixup = ConfigDict()
    # Weights of mixup are drawn from Beta(mixup_alpha, mixup_alpha); 0: off.
    config.mixup.mixup_alpha = 0.8
    # Areas of CutMix are drawn from Beta(cutmix_alpha, cutmix_alpha); 0: off.
    config.mixup.cutmix_alpha = 1.0
    config.mixup.switch_probability = 0.5  # chance of CutMix, where both are on
    config.mixup.smoothing = 0.1  # fraction of a label that is spread over all classes
    # RandAugment: timm's rand-m9-mstd0.5-inc1.
    config.augment.randaugment = ConfigDict()
    config.augment.randaugment.num_ops = 2  # operations on each image; 0: off
    config.augment.randaugment.magnitude = 9.0  # strength of the operations, of 10
    config.augment.randaugment.magnitude_std = 0.5  # std of each operation's strength
    config.augment.randaugment.probability = 0.5  # chance of each (MAE, by timm)
    config.augment.erasing = ConfigDict()
    config.augment.erasing.probability = 0.25  # chance that a box is erased
    # Least and most of the image that the box covers, as fractions (MAE, by timm).
    config.augment.erasing.area = (0.02, 1 / 3)
    # Least and most of the box's width / height (MAE, by timm).
    config.augment.erasing.ratio = (0.3, 1 / 0.3)
    if datasets.preset(dataset) in SMALL:
        SMALL[datasets.preset(dataset)](config)


def _digits(config: ConfigDict) -> None:
    """Minutes on two CPU cores, and little regularization. All values: ours."""
    config.train.batch_size = 32
    config.train.total_epochs = 30.0
    config.optim.warmup_epochs = 3.0
    config.optim.blr = 8e-3
    config.optim.layer_decay = 0.75
    _without_augmentation(config)


def _shapes(config: ConfigDict) -> None:
    """Minutes on two CPU cores. All values: ours."""
    config.train.batch_size = 64
    config.train.total_epochs = 10.0
    config.optim.warmup_epochs = 1.0
    config.optim.blr = 4e-3
    config.optim.layer_decay = 0.75
    _without_augmentation(config)


def _without_augmentation(config: ConfigDict) -> None:
    """Too few steps, and networks too small, to need it. Ours."""
    config.model.drop_path = 0.0
    config.augment.randaugment.num_ops = 0
    config.augment.erasing.probability = 0.0
    config.mixup.mixup_alpha = 0.0
    config.mixup.cutmix_alpha = 0.0


def _photographs(config: ConfigDict) -> None:
    """Smaller batches than MAE's: the data sets are smaller. Ours."""
    config.train.batch_size = 256


def _few_photographs(config: ConfigDict) -> None:
    """Minutes on two CPU cores. All values: ours."""
    _shapes(config)
    config.train.batch_size = 32
    config.train.total_epochs = 30.0
    config.optim.warmup_epochs = 3.0


SMALL = {
    datasets.digits: _digits,
    datasets.shapes: _shapes,
    datasets.cifar: _photographs,
    datasets.cifar10_small: _shapes,
    datasets.tiny_imagenet: _photographs,
    datasets.folder: _photographs,
    datasets.folder_small: _few_photographs,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET,MODE[,runlocal]; MODE is linear, finetune or scratch.

    Ours where no source is named.
    """
    dataset, mode, runlocal = parse_arg(arg)
    config = common.get_config("mae", dataset)
    datasets.preset(dataset)(config)
    # A classifier sees all patches and reconstructs nothing.
    del config.mask, config.loss, config.model.decoder, config.log.pictures_every
    config.model.name = "classifier"
    config.model.mode = mode  # "linear", "finetune" or "scratch"
    # A MAE, an i-MAE or a classifier, whose encoder is taken; "scratch": empty.
    config.init = ""
    if config.augment.crop_scale:
        config.augment.crop_scale = (0.08, 1.0)  # MAE: torchvision's and timm's default
    if mode == "linear":
        linear(config, dataset)
    else:
        full(config, dataset)
    if mode == "scratch":
        config.optim.layer_decay = 1.0  # random weights have nothing that is to be kept

    config.evals = ConfigDict()
    config.evals.classification = ConfigDict()
    # The split that is scored: "validation" or "test".
    config.evals.classification.split = "test"
    config.evals.classification.batch_size = 256  # images scored at a time
    # Every image that was published for it; 7.5 GB for ImageNet.
    config.data.evaluate_on.test = None
    if runlocal:
        common.shrink(config)
    return config
