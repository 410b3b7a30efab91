"""Evaluators by name: every module of this package that declares an `EVALUATOR`."""

import functools
import importlib
import pkgutil

from imae_jax import evaluators
from imae_jax.evaluators.evaluator import Evaluator


@functools.cache
def all_evaluators() -> dict[str, Evaluator]:
    """Returns all evaluators, found by file: a new one needs no entry in a list."""
    names = [module.name for module in pkgutil.iter_modules(evaluators.__path__)]
    modules = [importlib.import_module(f"{evaluators.__name__}.{name}") for name in names]
    return {
        name: module.EVALUATOR
        for name, module in zip(names, modules, strict=True)
        if hasattr(module, "EVALUATOR")
    }
