"""i-MAE: two images mixed, pulled apart, both rebuilt, distilled from a teacher.

    python main.py train --config=configs/imae.py:digits \\
        --config.teacher.init=runs/digits/teacher --workdir=runs/digits/imae
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]."""
    dataset, runlocal = common.parse_arg(arg)
    # Epochs: ours (code: 50 on ImageNet, from a warm start).
    config = common.get_config("imae", dataset, epochs=150.0, runlocal=runlocal)

    config.mix = ConfigDict()
    # Weight of the subordinate image, in (0, 0.5]; unset: min(lam, 1 - lam) with
    # lam ~ Beta(1, 1), drawn anew for every step (code).
    config.mix.alpha = placeholder(float)
    config.mix.per_batch = False  # one draw per sample (ours) or per batch (code)
    config.mix.shared_mask = False  # one mask for both mixtures of a pair; ours

    config.teacher = ConfigDict()
    config.teacher.init = ""  # workdir of a run of configs/mae.py
    # "image": each source alone (paper, ours); "mixture": the released code's line.
    config.teacher.input = "image"

    # "both", or "subordinate" for the mode of the paper's first version.
    config.loss.branches = "both"
    config.loss.distill_weight = 1.0  # of each branch's latent error (code); 0: off

    # alpha 0.3: ours, inside the range the paper shows.
    config.evals.reconstruction = ConfigDict()
    config.evals.reconstruction.split = "test"
    config.evals.reconstruction.batch_size = 256
    config.evals.reconstruction.seed = 0  # of pairs and masks: the same for every run
    config.evals.reconstruction.alpha = 0.3

    config.evals.separability = ConfigDict()
    config.evals.separability.split = "test"  # the map is fitted on the train split
    config.evals.separability.batch_size = 256
    config.evals.separability.seed = 0  # of pairs and masks: the same for every run
    config.evals.separability.alpha = 0.3
    # The sweep: ours.
    config.evals.separability.alphas = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    config.evals.separability.teacher = ""  # workdir; empty: teacher.init
    config.evals.separability.baseline_runs = ConfigDict()
    config.evals.separability.baseline_runs.without_distillation = ""  # workdir

    # The report's interactive panel. All values: ours.
    config.explorer = ConfigDict()
    config.explorer.split = "test"
    config.explorer.pairs = 8
    config.explorer.alphas = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    config.explorer.mask_ratios = (0.25, 0.5, 0.75)
    config.explorer.batch_size = 64  # holds every pair; more would only be thrown away
    config.explorer.seed = 0  # of pairs and masks: the same for every run
    if runlocal:
        config.explorer.pairs = 2
        config.explorer.alphas = (0.1, 0.3)
        config.explorer.mask_ratios = (0.25, 0.5)
    return config
