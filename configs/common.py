"""Every default value of a run, with its meaning and its source.

`python main.py config --config=FILE:ARG` prints them from the comments here. A comment
stands above or beside the line that sets a key. Its source is in brackets, or a sentence
of its own: *paper* arXiv 2210.11470; *released code* its authors'; *author* their answers
in its issues; *MAE* He et al. 2022 and its release; *ours* where these are silent, or
tuned on a validation split. A line without a source has that of its function's docstring.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def duration(name: str, **value) -> dict:
    """A duration that can be given in several units: NAME_steps, NAME_epochs, ...

    The first that is set counts, in the order steps, examples, epochs, fraction (of the
    run). A unit given on the command line unsets those before it.
    """
    units = {"steps": int, "examples": int, "epochs": float, "fraction": float}
    if name == "total":
        del units["fraction"]
    return {
        f"{name}_{unit}": value.get(unit, placeholder(kind)) for unit, kind in units.items()
    }


def size(width: int | None, depth: int | None, heads: int | None) -> ConfigDict:
    """The size of a Transformer; None leaves a number to the variant."""
    section = ConfigDict()
    # Values of a token; unset: the variant's.
    section.width = placeholder(int) if width is None else width
    # Number of blocks; unset: the variant's.
    section.depth = placeholder(int) if depth is None else depth
    # Attention heads of a block; unset: the variant's.
    section.heads = placeholder(int) if heads is None else heads
    return section


def decoder(width: int | None, depth: int | None, heads: int | None) -> ConfigDict:
    """The size of a decoder, and what its mask tokens attend to."""
    section = size(width, depth, heads)
    # "self": latents and mask tokens attend to each other (MAE). "cross": each mask token
    # attends to the latents alone, which costs less; only masked patches are predicted
    # (CrossMAE, Fu et al. 2024, arXiv 2401.14391).
    section.attention = "self"
    return section


def evaluator(
    alpha: float | None = None,
    alphas: tuple[float, ...] | None = None,
    mask_ratios: tuple[float, ...] | None = None,
) -> ConfigDict:
    """A section of `evals`, with those of the options that are given. All values: ours."""
    section = ConfigDict()
    section.split = "test"  # the split that is scored: "validation" or "test"
    section.batch_size = 256  # images scored at a time
    section.seed = 0  # of pairs, masks and probes: the same for every run
    if alpha is not None:
        # Weight of the subordinate image, inside the range that the paper shows.
        section.alpha = alpha
    if alphas is not None:
        # Weights of the subordinate image that are scored one after the other.
        section.alphas = alphas
    if mask_ratios is not None:
        # Fractions of masked patches that are scored one after the other.
        section.mask_ratios = mask_ratios
    return section


def separability() -> ConfigDict:
    """The section `evals.separability`. All values: ours."""
    sweep = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    section = evaluator(alpha=0.3, alphas=sweep)
    # Workdir of the MAE whose latents are the targets; empty: teacher.init, or, for a
    # MAE, the run itself.
    section.teacher = ""
    # "linear", or "mlp": scores of a small MLP besides, which show whether images are told
    # apart, but not linearly.
    section.map = "linear"
    # Outputs of the teacher that are predicted: "latents" (of its `decoder_embed`) and
    # "tokens" (of its encoder), for comparing decoders of different width.
    section.targets = ("latents",)
    section.mlp = ConfigDict()
    section.mlp.width = 256  # width of its two hidden layers
    section.mlp.epochs = 30  # passes; validation chooses the best
    section.mlp.batch_size = 512  # tokens in a step
    section.mlp.lr = 1e-3  # peak learning rate of Adam
    return section


def during_training() -> ConfigDict:
    """The section `evals.during_training`. All values: ours."""
    section = evaluator(alpha=0.3)
    # Epochs between evaluations in training, on few images and into metrics.jsonl: k-NN
    # accuracy, effective rank, and gain; 0: none.
    section.every_epochs = 0.0
    section.split = "validation"  # the split that is scored: "validation" or "test"
    # Number of images that neighbours are taken from and maps fitted on, at most.
    section.fit_images = 2000
    section.score_images = 500  # number of images that are scored, at most
    section.neighbours = 20  # neighbours that vote in the k-NN classifier
    section.temperature = 0.07  # temperature of their votes
    return section


def segmentation() -> ConfigDict:
    """The section `evals.segmentation`. All values: ours."""
    section = evaluator()
    del section.seed  # nothing is drawn
    # Number of images of each split that patches are fitted, chosen and scored on, at most.
    section.max_images = 1000
    return section


# One line a key, so that the file can be read as the list of all keys.
def get_config(model: str, dataset: str) -> ConfigDict:
    """The values that runs share, on all data sets. Ours where no source is named."""
    config = ConfigDict()
    # Decides initial weights, order of images, augmentation, mixtures and masks.
    config.seed = 0
    # Where the weights start: empty (random), "teacher", or a run's workdir.
    config.init = ""

    config.data = ConfigDict()
    config.data.name = dataset  # name of the data set
    # The folder that holds the TFDS folders, the archive or the images; made where it
    # does not exist.
    config.data.dir = "data"
    # "resident": images live on the devices; "streaming": they are sent step by step;
    # "auto": resident up to `resident_gb`, unless crops are cut out of files.
    config.data.feed = "auto"
    # Images that "auto" keeps on the devices, in 1e9 bytes on each.
    config.data.resident_gb = 4.0
    # Resident images split over the devices, not copied to each; a step then sends its
    # batch once more between them.
    config.data.sharded = False
    config.data.prefetch = 2  # batches that a streaming input pipeline makes ahead
    # An image that cannot be used ends the run ("raise") or is left out ("skip").
    config.data.on_bad_image = "raise"
    # Number of images that probes are fitted on, chosen by and scored on; unset: all.
    # Where two splits are published, a tenth of `train` is set aside for `validation`.
    config.data.evaluate_on = ConfigDict(
        {part: placeholder(int) for part in ("train", "validation", "test")}
    )

    config.augment = ConfigDict()
    config.augment.pad = 0  # largest random shift, in pixels
    # What a shifted image has beyond its edge: black ("constant"), which reconstructions
    # then show at edges, too, or the image as in a mirror ("reflect").
    config.augment.pad_mode = "constant"
    config.augment.flip = False  # images mirrored left to right, at random
    # Fraction of the area that a random crop keeps, resized back: (least, most); (): no
    # crop.
    config.augment.crop_scale = ()

    config.model = ConfigDict()
    config.model.name = model  # kind of run: "mae", "imae" or "classifier"
    # NAME/PATCH: size of the encoder (mu, Ti, S, B or L) and pixels along a patch's side.
    config.model.variant = ""
    config.model.encoder = size(None, None, None)
    config.model.decoder = decoder(None, None, None)

    # None of these is architecture: the same checkpoint serves every choice.
    config.compute = ConfigDict()
    # "bfloat16" or "float32": matrix products and, except on CPU, what passes between
    # layers. Parameters, softmax, LayerNorm statistics and losses are float32 always.
    # "auto": what the machine that a run begins on computes faster; the run keeps it.
    # Products of float32 are what the hardware does by default: with fewer bits on TPUs and
    # newer GPUs, unless JAX_DEFAULT_MATMUL_PRECISION=highest is set.
    config.compute.dtype = "auto"
    # Implementation of attention: "xla", or "cudnn" on NVIDIA GPUs.
    config.compute.attention = "xla"
    # Blocks as a loop: compiles faster, runs slower on CPU.
    config.compute.scan = False
    # Memory for time, what the backward pass computes again: "none"; all but matrix
    # products ("products"); whole "blocks".
    config.compute.remat = "none"

    config.mask = ConfigDict()
    # Fraction of masked patches, which the encoder does not see (MAE and released code,
    # which draws its pictures at 0.5).
    config.mask.ratio = 0.75
    # Patches that are masked in training: "random" (MAE); "block", rectangles, and "grid",
    # one or more of every 2x2 patches (both as in MAE's ablation); "content", by how much a
    # patch varies (ours). Evaluations mask at random, whatever the kind.
    config.mask.kind = "random"
    # Weight of the rank of a patch's variance beside chance, with mask.kind="content":
    # above 0, detailed patches are masked more often, below 0 flat ones (ours).
    config.mask.content_weight = 0.0

    config.loss = ConfigDict()
    # Targets normalized patch by patch (MAE, as an option).
    config.loss.norm_pix = False
    # Fraction of the masked patches that training decodes and its loss counts, drawn anew
    # in each step; below 1 only with model.decoder.attention="cross" (MAE: all; CrossMAE's
    # command: a third).
    config.loss.predict_fraction = 1.0

    config.train = ConfigDict()
    # Images in a training step, even: they come in pairs; of more images in a mixture, a
    # multiple of mix.sources. Set by each data set's preset.
    config.train.batch_size = placeholder(int)
    # Length of the run: of steps, examples and epochs, the first that is set counts.
    config.train.update(duration("total"))
    # Training steps per dispatch, a loop on the device; needs resident images. Helps
    # where a step is shorter than the cost of a dispatch; not on CPU.
    config.train.steps_per_dispatch = 1
    # Microbatches that a batch is computed in, one after the other: less memory, the same
    # update.
    config.train.accumulate = 1

    config.mesh = ConfigDict()
    # Devices that share one copy of parameters, optimizer state and teacher, which are
    # gathered for each step; 1: each has its own; -1: all share one.
    config.mesh.fsdp = 1

    config.optim = ConfigDict()
    # Base learning rate: lr = blr * batch_size / 256 (MAE).
    config.optim.blr = 1.5e-4
    config.optim.min_lr = 0.0  # learning rate at the end of the schedule (MAE)
    config.optim.betas = (0.9, 0.95)  # decay of AdamW's two averages (MAE)
    # Weight decay of AdamW; none on biases and other 1-D parameters (MAE), here with class
    # and mask token, which MAE decays (ours).
    config.optim.weight_decay = 0.05
    # Largest norm of the gradient; unset: not clipped (MAE).
    config.optim.clip_norm = placeholder(float)
    # A step whose loss, gradient or result is not finite changes nothing; after so many in
    # a row the run ends.
    config.optim.max_skipped = 10
    # Linear warm-up of the learning rate: of steps, examples, epochs and fraction (of the
    # run), the first that is set counts (MAE: 40 of 400 epochs).
    config.optim.update(duration("warmup", fraction=0.1))

    config.checkpoint = ConfigDict()
    # Minutes between saves, each with the next line of the log; 0: not by time.
    config.checkpoint.every_minutes = 5.0
    # Steps between saves; 0: not by steps. The last step is always saved.
    config.checkpoint.every_steps = 0
    config.checkpoint.keep = 2  # number of the newest checkpoints that are kept
    # Number of checkpoints kept beside them, those of the lowest training loss.
    config.checkpoint.keep_best = 0

    config.log = ConfigDict()
    config.log.every_steps = 50  # steps between lines of the log
    # Where numbers are sent beside metrics.jsonl, which resume and report read:
    # tensorboard, and, if installed, wandb and trackio.
    config.log.to = ("tensorboard",)
    # Epochs between pictures of validation images there, reconstructed; 0: none.
    config.log.pictures_every = 0.0

    # What `eval` measures: a section for each evaluator. What is measured in training
    # stands in `during_training`.
    config.evals = ConfigDict()
    config.evals.during_training = during_training()
    # Probes of the frozen encoder.
    config.evals.probes = evaluator()
    # Neighbours that vote in the k-NN classifier (DINO, Caron et al. 2021).
    config.evals.probes.neighbours = 20
    # Temperature of their votes: the lower, the more the nearest count (DINO, Caron et
    # al. 2021).
    config.evals.probes.temperature = 0.07
    config.evals.probes.lars = ConfigDict()
    # Base learning rates that the linear probe tries; validation chooses (MAE: 0.1 at
    # batch 16,384 on ImageNet; ours: small data sets take too few steps for it).
    config.evals.probes.lars.blrs = (0.1, 1.0, 10.0, 100.0)
    config.evals.probes.lars.batch_size = 256  # features in a step of the linear probe
    config.evals.probes.lars.epochs = 90  # length of the linear probe's training (MAE)
    # Linear warm-up of the linear probe's learning rate (MAE).
    config.evals.probes.lars.warmup_epochs = 10
    # The class of each pixel: only where images have label maps (datasets).
    config.evals.segmentation = segmentation()
    return config


def shrink(config: ConfigDict) -> None:
    """`runlocal`: the same run shrunk to seconds on a CPU. All values: ours."""
    patch = config.model.variant.partition("/")[2]
    config.model.variant = f"mu/{patch}"
    config.model.encoder = size(None, None, None)
    if "decoder" in config.model:
        config.model.decoder = decoder(16, 1, 2)
    config.train.batch_size = 32
    config.train.total_steps = 4
    config.optim.warmup_steps = 0
    config.log.every_steps = 1
    if "separability" in config.evals:
        config.evals.separability.alphas = (0.3, 0.45)
        config.evals.separability.mlp.width = 16
        config.evals.separability.mlp.epochs = 1
    if "probes" in config.evals:
        config.evals.probes.lars.epochs = 2
        config.evals.probes.lars.warmup_epochs = 1
    if config.data.name != "digits":  # all of which takes seconds
        config.data.evaluate_on.update(dict(train=256, validation=64, test=64))
        for section in config.evals.values():
            section.batch_size = 64
