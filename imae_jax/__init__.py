"""i-MAE (arXiv 2210.11470) in JAX/Flax: masked autoencoders fed mixtures of two images.

Where the idea of the paper lives, in reading order:

* `mixing`      two images become one mixture
* `patches`     which part of the mixture the encoder sees
* `model`       `MAE` (the teacher) and `IMAE`: encoder, two linear heads, one decoder
* `distill`     what the teacher makes of each image alone
* `losses`      reconstruction of both images, distillation of both latents
* `evaluators`  are the two images' latents linearly separable?

Around it: `transformer`, `compute` (types and forms of its products), `data` (images,
pairs, feeds), `augment` (and `randaugment` and `mixup`, for fine-tuning), `sharding`
(devices), `memory`, `processes` (several that work as one), `optim` (updates), `trees`,
`paths`, `files`, `checkpoint` and `workdirs` (arrays and disk), `logs` (what people
read), `objectives` (what a step minimises), `steps` (the jitted functions), `validate`,
`validate_evals` and `validate_transfer` (what a config may say), `runs` (trained runs),
`setup` (what a run is made of), `compared` (the networks that evaluators compare),
`train` (loop and evaluation), `startup` (before JAX starts its backend), `describe` (a
data set), `demo`, `cells` and `study` (grids of runs), and `report`. Encoders that name
classes, by a probe or fine-tuned: `classifier` (the model) and `transfer` (its loss and
its start). What a step needs on devices that are not here: `plan`, which asks `ahead`
(compiling), `chips` and `collectives`. Other people's weights, and ours in their tools:
`interop`; a trained model as other projects use it: `pretrained`, which is
`imae_jax.load`. Imports go one way: a module imports only from layers below its own,
which tests/test_imports.py lists.

Shape key, used in every docstring:

    B  batch              S  the two sources: 0 subordinate, 1 dominant
    H W C  image          L  patches of an image      K  visible (kept) patches
    P  pixel values of a patch, p * p * C             D  encoder width   E  decoder width
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from imae_jax.evaluators.separability import linear_separability, mixture_separability
    from imae_jax.pretrained import load

__all__ = ["__version__", "linear_separability", "load", "mixture_separability"]

# Imported where first asked for: whoever wants the message of an error waits for no JAX.
_MODULES = {
    "load": "imae_jax.pretrained",
    "linear_separability": "imae_jax.evaluators.separability",
    "mixture_separability": "imae_jax.evaluators.separability",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
