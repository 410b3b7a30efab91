"""i-MAE (arXiv 2210.11470) in JAX/Flax: masked autoencoders fed mixtures of two images.

The idea of the paper, in reading order:

* `objectives.mixing`        mixes two images into one
* `models.masking`           random masks of the mixture's patches
* `models.imae`              one encoder, two linear heads, one decoder
* `objectives.distillation`  the teacher's latents of each image alone
* `objectives.losses`        reconstruction of both images, distillation of both latents
* `objectives.imae`          the training objective, composed of these
* `evaluators.separability`  are the two images' latents linearly separable?

Packages, from the bottom up; a module imports only from its own package and those earlier
in this list (tests/test_imports.py):

* `errors`, `runtime`   exceptions; memory and caches, before JAX starts
* `models`              layers, MAE, i-MAE, the classifier, forward passes
* `distributed`         devices and processes
* `optim`               durations, schedules, AdamW, LARS
* `probing`             probes on arrays, for any encoder
* `storage`             checkpoints, run folders, atomic files
* `data`                data sets and the input pipeline
* `objectives`          training objectives of each kind of run
* `config`              rules for single keys of a config, and checks across keys
* `evaluators`          metrics of trained networks
* `report`              tables, charts and the HTML page
* `training`            setup, step, loop, and trained runs on disk
* `interop`             import and export of weights
* `evaluation`, `aot`   evaluation of a run; ahead-of-time compilation
* `pretrained`          holds `load`
* `encoders`            encoders of any library, and their separability
* `commands`            the commands of main.py

Shape key, used in every docstring:

    B  batch              S  the sources: 0 subordinate, ..., dominant
    H W C  image          L  patches of an image      K  visible (kept) patches
    P  pixel values of a patch, p * p * C             D  encoder width   E  decoder width
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from imae_jax.encoders.separability import separability
    from imae_jax.evaluation import evaluate
    from imae_jax.evaluators.mixture_separability import mixture_separability
    from imae_jax.pretrained import load
    from imae_jax.probing.linear_segmentation import linear_segmentation
    from imae_jax.probing.linear_separability import linear_separability
    from imae_jax.runtime import show_log
    from imae_jax.training.loop import train

__all__ = [
    "__version__",
    "evaluate",
    "linear_segmentation",
    "linear_separability",
    "load",
    "mixture_separability",
    "separability",
    "show_log",
    "train",
]

# Imported on first access: `import imae_jax` alone does not load JAX.
_MODULES = {
    "evaluate": "imae_jax.evaluation",
    "linear_segmentation": "imae_jax.probing.linear_segmentation",
    "linear_separability": "imae_jax.probing.linear_separability",
    "load": "imae_jax.pretrained",
    "mixture_separability": "imae_jax.evaluators.mixture_separability",
    "separability": "imae_jax.encoders.separability",
    "show_log": "imae_jax.runtime",
    "train": "imae_jax.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
