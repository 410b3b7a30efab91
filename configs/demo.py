"""The demo: a teacher, i-MAE, and i-MAE without distillation, on handwritten digits.

python main.py demo
"""

from ml_collections import ConfigDict

from configs import common, imae, mae


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]. One section per run, in the order they are trained."""
    common.parse_arg(arg)
    config = ConfigDict()
    config.teacher = mae.get_config(arg)
    config.imae_without_distillation = imae.get_config(arg)
    config.imae_without_distillation.loss.distill_weight = 0.0
    evals = config.imae_without_distillation.evals
    del evals.separability.baseline_runs.without_distillation  # it is that run itself
    config.imae = imae.get_config(arg)
    return config
