"""The demo: a teacher, i-MAE, and i-MAE without distillation, on drawn scenes.

python main.py demo
"""

from ml_collections import ConfigDict

from configs import datasets, imae, mae


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]. One section per run, in the order they are trained."""
    arg = arg or "shapes"  # ours: its pictures are told apart at a glance
    config = ConfigDict()
    config.teacher = mae.get_config(arg)
    config.imae_without_distillation = imae.get_config(arg)
    config.imae_without_distillation.loss.distill_weight = 0.0  # ours
    # The i-MAE run's tables have a row for the other two.
    for name in list(config.imae_without_distillation.evals):
        if name != "reconstruction":
            del config.imae_without_distillation.evals[name]
    del config.imae_without_distillation.explorer
    del config.teacher.evals.probes, config.teacher.evals.separability
    config.imae = imae.get_config(arg)
    # The report's panel shows what this evaluator measures, over alpha and mask ratio.
    del config.imae.evals.quality
    for run in (config.teacher, config.imae):
        if (
            "segmentation" in run.evals
        ):  # of the encoder alone, whose probes are enough here
            del run.evals.segmentation
    dataset, runlocal = datasets.parse_arg(arg)
    if dataset == "shapes":
        for run in config.values():
            _shapes(run, runlocal)
    return config


def _shapes(config: ConfigDict, runlocal: bool) -> None:
    """Shorter runs than in studies: minutes in all on two CPU cores. All values: ours."""
    if not runlocal:
        config.train.total_epochs = 5.0
        config.data.evaluate_on.update(dict(train=2000, validation=500, test=500))
    if "attributes" in config.evals:
        del config.evals.semantics  # the class is one of the attributes
        config.evals.attributes.alphas = (0.3,)
        config.evals.separability.alphas = (0.1, 0.3, 0.45)
