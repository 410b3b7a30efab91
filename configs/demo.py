"""The demo: a teacher, i-MAE, and i-MAE without distillation, on drawn scenes.

python main.py demo
"""

import importlib.resources
from pathlib import Path

from ml_collections import ConfigDict

from configs import datasets, imae, mae

WEIGHTS = Path(__file__).parents[1] / "weights" / "cifar10_small_imae.safetensors"


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]. A section for the first picture, and one per run."""
    arg = arg or "shapes"  # ours: its pictures are told apart at a glance
    dataset, runlocal = datasets.parse_arg(arg)
    config = ConfigDict()
    config.photographs = _photographs(runlocal)
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
    if dataset == "shapes":
        for run in (config.teacher, config.imae_without_distillation, config.imae):
            _shapes(run, runlocal)
    return config


def _photographs(runlocal: bool) -> ConfigDict:
    """The picture that is drawn before anything is trained."""
    config = ConfigDict()
    # A file that `export` wrote, or a run's folder, of an i-MAE; "" for no such picture.
    config.weights = "" if runlocal else str(WEIGHTS)  # ours
    images = importlib.resources.files("sklearn.datasets.images")
    # Two or more image files; each is mixed with the next, the last with the first.
    config.files = tuple(str(images / name) for name in ("china.jpg", "flower.jpg"))  # ours
    # Weight of the subordinate image in the mixture, up to 0.5.
    config.alpha = 0.3  # ours, as in evaluation
    # Fraction of masked patches.
    config.mask_ratio = 0.5  # ours: that of the weights' training
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
