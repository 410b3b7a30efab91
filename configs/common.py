"""Every default value of a run, with its source.

Sources: *paper* arXiv 2210.11470; *code* the authors' release; *author* their answers in
its issues; *MAE* He et al. 2022 and its release; *ours* where these are silent, or tuned
on a validation split.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

DATASETS = ("digits",)


def parse_arg(arg: str | None) -> tuple[str, bool]:
    """ "DATASET[,runlocal]" -> (dataset, runlocal).

    `runlocal` is the same run shrunk to seconds on a CPU.
    """
    dataset, *options = (arg or "digits").split(",")
    if dataset not in DATASETS:
        raise ValueError(
            f"no preset for data set {dataset!r}; presets: {', '.join(DATASETS)}"
        )
    unknown = [option for option in options if option != "runlocal"]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; options: runlocal")
    return dataset, bool(options)


def duration(name: str, **value) -> dict:
    """A duration that can be given in several units: NAME_steps, NAME_epochs, ...

    The first that is set counts, in the order steps, examples, epochs, fraction (of the
    run); so `--config.train.total_steps=100` wins over a preset in epochs.
    """
    units = {"steps": int, "examples": int, "epochs": float, "fraction": float}
    if name == "total":
        del units["fraction"]
    return {
        f"{name}_{unit}": value.get(unit, placeholder(kind)) for unit, kind in units.items()
    }


def size(width: int | None, depth: int | None, heads: int | None) -> ConfigDict:
    """The size of a Transformer; None leaves a number to the variant."""
    numbers = dict(width=width, depth=depth, heads=heads)
    unset = {key: placeholder(int) for key, value in numbers.items() if value is None}
    return ConfigDict(numbers | unset)


def evaluator(**options) -> ConfigDict:
    """A section of `evals`: what is scored, in batches of what size, and its options."""
    # The seed is that of pairs and masks: the same for every run.
    return ConfigDict(dict(split="test", batch_size=256, seed=0, **options))


def get_config(model: str, dataset: str, *, epochs: float, runlocal: bool) -> ConfigDict:
    """What MAE and i-MAE runs have in common."""
    config = ConfigDict()
    # Decides initial weights, order of images, augmentation, mixtures and masks.
    config.seed = 0
    # Where the weights start: empty (random), "teacher", or a run's workdir.
    config.init = ""

    config.data = ConfigDict()
    config.data.name = dataset
    # The folder that holds the TFDS folders; made where it does not exist.
    config.data.dir = "data"

    config.augment = ConfigDict()
    # Pixels of random shift. None: digits fill their 8x8 frame, and a shift by one costs
    # more than it brings (validation error of the teacher 0.93 of the mean image's with,
    # 0.75 without, at 60 and 40 epochs); ours.
    config.augment.pad = 0
    config.augment.flip = False  # a mirrored digit is no digit
    # Share of the area that a random crop keeps, resized back; () none; MAE: (0.2, 1) on
    # ImageNet.
    config.augment.crop_scale = ()

    config.model = ConfigDict()
    config.model.name = model
    config.model.variant = "mu/2"  # NAME/PATCH; names: mu, Ti, S, B, L
    # What is not set here is the variant's own. Sizes for 8x8 digits on two CPU cores:
    # ours, chosen on the validation split; wider and deeper ones learn less in the time.
    config.model.encoder = size(64, 2, 4)
    config.model.decoder = size(64, 2, 4)

    config.mask = ConfigDict()
    # MAE and code: 0.75; 0.5 for pictures (code). A digit has only 16 patches: ours.
    config.mask.ratio = 0.25

    config.loss = ConfigDict()
    config.loss.norm_pix = False  # targets standardised per patch; MAE's option

    config.train = ConfigDict()
    config.train.batch_size = 32  # ours: more updates in the time than larger ones
    config.train.update(duration("total", epochs=epochs))

    config.optim = ConfigDict()
    config.optim.blr = 2.4e-2  # lr = blr * batch_size / 256; ours (MAE: 1.5e-4)
    config.optim.betas = (0.9, 0.95)  # MAE
    config.optim.weight_decay = 0.05  # MAE; none on biases and other 1-D parameters
    config.optim.update(duration("warmup", fraction=0.1))  # MAE: 40 of 400 epochs

    config.checkpoint = ConfigDict()
    config.checkpoint.every_minutes = 0.25  # 0: not by time
    config.checkpoint.every_steps = 0  # 0: not by steps; the last step is always saved
    config.checkpoint.keep = 2

    config.log = ConfigDict()
    config.log.every_steps = 50

    config.evals = ConfigDict()
    # Probes of the frozen encoder. k-NN: DINO's (Caron et al. 2021). LARS: MAE's linear
    # probe, which has blr 0.1 at batch 16,384 on ImageNet; small data sets take too few
    # steps for it, so larger ones are tried too (ours).
    config.evals.probes = evaluator(neighbours=20, temperature=0.07)
    config.evals.probes.lars = ConfigDict()
    config.evals.probes.lars.blrs = (0.1, 1.0, 10.0, 100.0)
    config.evals.probes.lars.batch_size = 256
    config.evals.probes.lars.epochs = 90
    config.evals.probes.lars.warmup_epochs = 10
    if runlocal:
        config.evals.probes.lars.epochs = 2
        config.evals.probes.lars.warmup_epochs = 1
        config.model.encoder = size(None, None, None)
        config.model.decoder = size(32, 1, 2)
        config.train = ConfigDict(dict(batch_size=32, **duration("total", steps=4)))
        config.log.every_steps = 1
    return config
