"""A masked autoencoder on single images: the teacher of i-MAE.

python main.py train --config=configs/mae.py:digits --workdir=runs/digits/teacher
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: DATASET[,runlocal]."""
    dataset, runlocal = common.parse_arg(arg)
    # Epochs: ours; the validation error still falls, slowly.
    config = common.get_config("mae", dataset, epochs=150.0, runlocal=runlocal)
    config.evals.reconstruction = common.evaluator()
    return config
