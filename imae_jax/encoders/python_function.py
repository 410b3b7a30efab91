"""`python:MODULE:FUNCTION`: a function of your own, from images in 0..255 to features."""

import importlib
import os
import sys
from typing import Any

from imae_jax.encoders.encoder import Encoder, Preprocessing
from imae_jax.encoders.spec import Spec
from imae_jax.errors import UserError, describe


def open_encoder(spec: Spec) -> Encoder:
    """Opens a function of a module in the working folder or an installed package.

    Raises:
      UserError: if there is no such module or function.
    """
    module_name, _, name = spec.argument.rpartition(":")
    spec.check(bool(module_name and name), "python:MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"invalid encoder={spec.text!r}: {module_name} cannot be imported: "
            f"{describe(error)}"
        ) from None
    function: Any = getattr(module, name, None)
    spec.check(callable(function), f"a function of {module_name}, which has no {name!r}")
    recorded = Preprocessing(source="images as the function is given them")
    return Encoder(spec.text, function, spec.preprocessing(recorded))
