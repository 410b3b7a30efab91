"""Every default value of a run, with its source.

Sources: *paper* arXiv 2210.11470; *code* the authors' release; *author* their answers in
its issues; *MAE* He et al. 2022 and its release; *ours* where these are silent, or tuned
on a validation split.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


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


def get_config(model: str, dataset: str) -> ConfigDict:
    """What MAE and i-MAE runs on all data sets have in common."""
    config = ConfigDict()
    # Decides initial weights, order of images, augmentation, mixtures and masks.
    config.seed = 0
    # Where the weights start: empty (random), "teacher", or a run's workdir.
    config.init = ""

    config.data = ConfigDict()
    config.data.name = dataset
    # The folder that holds the TFDS folders, the archive or the images; made where it
    # does not exist.
    config.data.dir = "data"
    # "resident": images live on the devices; "streaming": they are sent step by step;
    # "auto": resident up to `resident_gb`, unless crops are cut out of files.
    config.data.feed = "auto"
    config.data.resident_gb = 4.0  # 1e9 bytes on each device; ours
    # Resident images split over the devices, not copied to each; a step then sends its
    # batch once more between them.
    config.data.sharded = False
    config.data.prefetch = 2  # batches a streaming feed makes ahead; ours
    # An image that cannot be used ends the run ("raise") or is left out ("skip").
    config.data.on_bad_image = "raise"
    # How many images probes are fitted on, chosen by and scored on; unset: all there are.
    # Where two splits are published, a tenth of `train` is set aside for `validation`.
    config.data.evaluate_on = ConfigDict(
        {part: placeholder(int) for part in ("train", "validation", "test")}
    )

    config.augment = ConfigDict()
    config.augment.pad = 0  # pixels of random shift
    config.augment.flip = False  # mirrored left to right, at random
    # Share of the area that a random crop keeps, resized back; (): no crop.
    config.augment.crop_scale = ()

    config.model = ConfigDict()
    config.model.name = model
    config.model.variant = ""  # NAME/PATCH; names: mu, Ti, S, B, L
    config.model.encoder = size(None, None, None)  # unset: the variant's own
    config.model.decoder = size(None, None, None)

    # None of these is architecture: the same checkpoint serves every choice. All: ours.
    config.compute = ConfigDict()
    # "bfloat16" or "float32": matrix products and, except on CPU, what passes between
    # layers. Parameters, softmax, LayerNorm statistics and losses are float32 always.
    # "auto": what the machine that a run begins on computes faster; the run keeps it.
    config.compute.dtype = "auto"
    config.compute.attention = "xla"  # or "cudnn", on NVIDIA GPUs
    config.compute.scan = False  # blocks as a loop: compiles faster, runs slower on CPU
    # Memory for time, what the backward pass computes again: "none"; all but matrix
    # products ("products"); whole "blocks".
    config.compute.remat = "none"

    config.mask = ConfigDict()
    config.mask.ratio = 0.75  # MAE and code; code: 0.5 for pictures

    config.loss = ConfigDict()
    config.loss.norm_pix = False  # targets standardised per patch; MAE's option

    config.train = ConfigDict()
    config.train.batch_size = placeholder(int)
    config.train.update(duration("total"))
    # Steps that the device makes on its own, where images are resident: worth it where a
    # step takes less time than the host needs to ask for the next; not on CPU. Ours.
    config.train.steps_per_dispatch = 1

    # Parts of a batch that are computed one after the other: as much memory as one part
    # needs, for the same update. Ours.
    config.train.accumulate = 1

    config.mesh = ConfigDict()
    # Devices that share one copy of parameters, optimiser state and teacher, which are
    # gathered for each step; 1: each has its own; -1: all share one. Ours.
    config.mesh.fsdp = 1

    config.optim = ConfigDict()
    config.optim.blr = 1.5e-4  # lr = blr * batch_size / 256; MAE
    config.optim.min_lr = 0.0  # where the schedule ends; MAE
    config.optim.betas = (0.9, 0.95)  # MAE
    config.optim.weight_decay = 0.05  # MAE; none on biases and other 1-D parameters
    config.optim.clip_norm = placeholder(float)  # of the gradient; unset: not clipped (MAE)
    # A step whose loss or gradient is not finite changes nothing; after so many in a row
    # the run ends. Ours.
    config.optim.max_skipped = 10
    config.optim.update(duration("warmup", fraction=0.1))  # MAE: 40 of 400 epochs

    config.checkpoint = ConfigDict()
    config.checkpoint.every_minutes = 5.0  # with the next line of the log; 0: not by time
    config.checkpoint.every_steps = 0  # 0: not by steps; the last step is always saved
    config.checkpoint.keep = 2  # of the newest
    config.checkpoint.keep_best = 0  # and of those saved at the lowest training loss

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
    return config


def shrink(config: ConfigDict) -> None:
    """`runlocal`: the same run shrunk to seconds on a CPU."""
    patch = config.model.variant.partition("/")[2]
    config.model.variant = f"mu/{patch}"
    config.model.encoder = size(None, None, None)
    if "decoder" in config.model:
        config.model.decoder = size(32, 1, 2)
    config.train.batch_size = 32
    config.train.total_steps = 4
    config.optim.warmup_steps = 0
    config.log.every_steps = 1
    if "probes" in config.evals:
        config.evals.probes.lars.epochs = 2
        config.evals.probes.lars.warmup_epochs = 1
    if config.data.name != "digits":  # all of which takes seconds
        config.data.evaluate_on.update(dict(train=256, validation=64, test=64))
        for section in config.evals.values():
            section.batch_size = 64
