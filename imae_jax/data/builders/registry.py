"""Data set builders by name: every class in this package that declares a `FORM`.

A new data set is one file here, and one preset in `configs/datasets.py`. A builder's class
attributes:

* `FORM`: (H, W, C), number of classes, number of training images
* `SYMMETRY` (optional): symmetry orders of angular factors, see `dataset.Dataset`
"""

import importlib
import pkgutil
from typing import Any

from imae_jax.data import builders


def _find() -> dict[str, Any]:
    found = {}
    for module in pkgutil.iter_modules(builders.__path__, f"{builders.__name__}."):
        if module.name != __name__:
            for value in vars(importlib.import_module(module.name)).values():
                if getattr(value, "__module__", "") == module.name and hasattr(
                    value, "FORM"
                ):
                    found[value.name] = value
    return found


# Prepared on first use.
BUILDERS = _find()
FORMS = {name: builder.FORM for name, builder in BUILDERS.items()}
SYMMETRY = {name: getattr(builder, "SYMMETRY", {}) for name, builder in BUILDERS.items()}
