"""A masked autoencoder on single images: the teacher of i-MAE.

Its own separability is measured, too: it is shown mixtures, which it never saw.

python main.py train --config=configs/mae.py:digits --workdir=runs/digits/teacher
"""

from ml_collections import ConfigDict

from configs import common, datasets


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]."""
    dataset, runlocal = datasets.parse_arg(arg)
    config = common.get_config("mae", dataset)
    config.evals.reconstruction = common.evaluator()
    config.evals.separability = common.separability()
    datasets.preset(dataset)(config)
    if runlocal:
        common.shrink(config)
    return config
