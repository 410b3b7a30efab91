"""i-MAE: two images mixed, pulled apart, both rebuilt, distilled from a teacher.

    python main.py train --config=configs/imae.py:digits \\
        --config.teacher.init=runs/digits/teacher --workdir=runs/digits/imae
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common, datasets


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]."""
    dataset, runlocal = datasets.parse_arg(arg)
    config = common.get_config("imae", dataset)

    config.mix = ConfigDict()
    # Weight of the subordinate image, in (0, 0.5]; unset: min(lam, 1 - lam) with
    # lam ~ Beta(1, 1), drawn anew for every step (code).
    config.mix.alpha = placeholder(float)
    config.mix.per_batch = False  # one draw per sample (ours) or per batch (code)
    config.mix.shared_mask = False  # one mask for both mixtures of a pair; ours
    # Share of pairs that are of one class (paper, version 2), in [0, 1]; unset: classes
    # are ignored. It uses labels: above chance it is not self-supervised.
    config.mix.same_class_rate = placeholder(float)

    config.teacher = ConfigDict()
    config.teacher.init = ""  # workdir of a run of configs/mae.py
    # "image": each source alone (paper, ours); "mixture": the released code's line.
    config.teacher.input = "image"

    # "both", or "subordinate" for the mode of the paper's first version.
    config.loss.branches = "both"
    config.loss.distill_weight = 1.0  # of each branch's latent error (code); 0: off

    # alpha 0.3: ours, inside the range the paper shows; the sweeps: ours.
    config.evals.reconstruction = common.evaluator(alpha=0.3)
    sweep = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    config.evals.separability = common.evaluator(alpha=0.3, alphas=sweep)
    config.evals.separability.teacher = ""  # workdir; empty: teacher.init
    config.evals.separability.baseline_runs = ConfigDict()
    config.evals.separability.baseline_runs.without_distillation = ""  # workdir
    config.evals.semantics = common.evaluator(alpha=0.3, alphas=(0.1, 0.2, 0.3, 0.4, 0.5))
    # Every known factor, the class being one: only where others are known, too (datasets).
    config.evals.attributes = common.evaluator(alpha=0.3, alphas=(0.1, 0.3, 0.5))
    config.evals.representation = common.evaluator(alpha=0.3)
    # The reader of reconstructions: ours, tuned on the validation split of digits.
    config.evals.recognition = common.evaluator(alpha=0.3)
    config.evals.recognition.classifier = ConfigDict()
    config.evals.recognition.classifier.width = 256
    config.evals.recognition.classifier.epochs = 60
    config.evals.recognition.classifier.batch_size = 128
    config.evals.recognition.classifier.blr = 4e-3  # lr = blr * batch_size / 256
    config.evals.recognition.classifier.weight_decay = 0.05
    config.evals.quality = common.evaluator(
        alphas=(0.1, 0.2, 0.3, 0.4, 0.5), mask_ratios=(0.25, 0.5, 0.75)
    )
    # The report's interactive panel. All values: ours.
    config.explorer = ConfigDict()
    config.explorer.split = "test"
    config.explorer.pairs = 8
    config.explorer.alphas = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    config.explorer.mask_ratios = (0.25, 0.5, 0.75)
    config.explorer.batch_size = 64  # holds every pair; more would only be thrown away
    config.explorer.seed = 0  # of pairs and masks: the same for every run
    datasets.preset(dataset)(config)
    if runlocal:
        common.shrink(config)
        config.evals.separability.alphas = (0.3, 0.45)
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
