"""i-MAE: two images mixed, pulled apart, both rebuilt, distilled from a teacher.

    python main.py train --config=configs/imae.py:digits \\
        --config.teacher.init=runs/digits/teacher --workdir=runs/digits/imae
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common, datasets


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]. Ours where no source is named."""
    dataset, runlocal = datasets.parse_arg(arg)
    config = common.get_config("imae", dataset)

    config.mix = ConfigDict()
    # Number of images in a mixture, 2 to 4 (paper: 2; more: ours). They have a head each,
    # and train.batch_size is a multiple of it.
    config.mix.sources = 2
    # Weight of the subordinate image, in (0, 0.5]; unset: min(lam, 1 - lam) with
    # lam ~ Beta(1, 1), drawn anew for every step (released code). Of more images: the least
    # weight is to the largest as alpha to 1 - alpha, with even steps between, all of sum 1;
    # unset: drawn uniformly from all weights of sum 1, then sorted.
    config.mix.alpha = placeholder(float)
    # One weight for the whole batch, as in the released code, not for each mixture.
    config.mix.per_batch = False
    # One mask for both mixtures of a pair; the teacher then works half as much.
    config.mix.shared_mask = False
    # Fraction of a batch's pairs that are not mixed: the encoder sees each of their images
    # alone, and only the dominant branch learns from it (ours).
    config.mix.clean_fraction = 0.0
    # Fraction of pairs that are of one class, in [0, 1]; unset: classes are ignored. It
    # uses labels: above chance it is not self-supervised (paper, version 2).
    config.mix.same_class_rate = placeholder(float)

    config.teacher = ConfigDict()
    config.teacher.init = ""  # workdir of the teacher, a run of configs/mae.py
    # Input of the teacher: "image", each image alone, or "mixture", as in the released
    # code (paper, and ours).
    config.teacher.input = "image"

    # Images that are reconstructed: "both", or the "subordinate" alone, as in version 1
    # of the paper (released code).
    config.loss.branches = "both"
    # Weight of each branch's distance to the teacher's latents; 0: off (released code).
    config.loss.distill_weight = 1.0
    # Weight of the contrast between the latents of an image as subordinate and as dominant
    # one, among all images of the batch (InfoNCE); 0: off (ours).
    config.loss.contrast_weight = 0.0
    # Temperature of the contrast: divides the cosines (SimCLR, Chen et al. 2020).
    config.loss.contrast_temperature = 0.1
    # Weight of the uniformity of the mixtures' mean patch tokens: their mean squared cosine
    # (U-MAE, arXiv 2210.08344, whose pretrain.sh has 0.01); 0: off (ours).
    config.loss.uniformity_weight = 0.0

    _add_evals(config)
    # The report's interactive panel.
    config.explorer = ConfigDict()
    config.explorer.split = "test"  # the split that pairs are taken from
    config.explorer.pairs = 8  # pairs of images that the panel offers
    # Weights of the subordinate image that its slider offers.
    config.explorer.alphas = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    # Fractions of masked patches that its slider offers.
    config.explorer.mask_ratios = (0.25, 0.5, 0.75)
    # Images computed at a time: holds every pair; more would only be thrown away.
    config.explorer.batch_size = 64
    config.explorer.seed = 0  # seed of pairs and masks: the same for every run
    datasets.preset(dataset)(config)
    if runlocal:
        common.shrink(config)
        config.evals.semantics.alphas = (0.3,)
        if "attributes" in config.evals:
            config.evals.attributes.alphas = (0.3,)
        config.evals.quality.alphas = (0.3,)
        config.evals.quality.mask_ratios = (0.25, 0.5)
        if "recognition" in config.evals:
            config.evals.recognition.classifier.width = 16
            config.evals.recognition.classifier.epochs = 1
        config.explorer.pairs = 2
        config.explorer.alphas = (0.1, 0.3)
        config.explorer.mask_ratios = (0.25, 0.5)
    return config


def _add_evals(config: ConfigDict) -> None:
    """Metrics of two images in a mixture. All values: ours."""
    config.evals.reconstruction = common.evaluator(alpha=0.3)
    config.evals.separability = common.separability()
    config.evals.separability.baseline_runs = ConfigDict()
    # Workdir of the same run without distillation, for a row of the table; empty: no row.
    config.evals.separability.baseline_runs.without_distillation = ""
    # Below 0.5, at which nothing tells which image is which.
    config.evals.semantics = common.evaluator(alpha=0.3, alphas=(0.1, 0.2, 0.3, 0.4))
    # Every known factor, the class being one: only where others are known, too (datasets).
    config.evals.attributes = common.evaluator(alpha=0.3, alphas=(0.1, 0.3, 0.45))
    config.evals.representation = common.evaluator(alpha=0.3)
    # A perceptron on pixels reads reconstructions; tuned on the validation split of digits.
    config.evals.recognition = common.evaluator(alpha=0.3)
    config.evals.recognition.classifier = ConfigDict()
    config.evals.recognition.classifier.width = 256  # width of the reader's hidden layers
    config.evals.recognition.classifier.epochs = 60  # epochs that the reader is trained
    config.evals.recognition.classifier.batch_size = 128  # images in the reader's step
    # Base learning rate of the reader: lr = blr * batch_size / 256.
    config.evals.recognition.classifier.blr = 4e-3
    # Weight decay of the reader's AdamW.
    config.evals.recognition.classifier.weight_decay = 0.05
    config.evals.quality = common.evaluator(
        alphas=(0.1, 0.2, 0.3, 0.4, 0.5), mask_ratios=(0.25, 0.5, 0.75)
    )
