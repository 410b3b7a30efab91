"""Opens an encoder by its address, such as `timm:vit_small_patch16_224`."""

import dataclasses
import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from imae_jax.data.encoded_images import parse_size
from imae_jax.encoders.encoder import INTERPOLATIONS, Encoder, Preprocessing
from imae_jax.errors import UserError, describe, require

OPTION = re.compile(r"(?P<key>[a-z_]+)=(?P<value>.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of address.

    Attributes:
      module: module of this package, whose `open_encoder(spec)` opens it.
      form: the address, for messages.
      options: its own options, beside `PREPROCESSING`.
    """

    module: str
    form: str
    options: tuple[str, ...] = ()


KINDS = {
    "run": Kind("own_models", "run:WORKDIR", ("mask_ratio", "output", "weights")),
    "file": Kind(
        "own_models", "file:WEIGHTS.safetensors", ("mask_ratio", "output", "weights")
    ),
    "timm": Kind("timm_models", "timm:NAME", ("checkpoint", "weights")),
    "hf": Kind("huggingface", "hf:FOLDER_OR_ID", ("mask_ratio", "weights")),
    "torchvision": Kind("torchvision_models", "torchvision:NAME", ("weights",)),
    "onnx": Kind("onnx_file", "onnx:FILE", ("output",)),
    "python": Kind("python_function", "python:MODULE:FUNCTION"),
}
# Options of every kind, in place of what the library records.
PREPROCESSING = ("size", "mean", "std", "interpolation")
FORMS = ", ".join(kind.form for kind in KINDS.values())


@dataclasses.dataclass(frozen=True)
class Spec:
    """A parsed address.

    Attributes:
      text: the address as it was given, the encoder's name.
      kind: a key of `KINDS`.
      argument: what follows the kind: a path or name.
      options: the options that were given, by name.
    """

    text: str
    kind: str
    argument: str
    options: Mapping[str, str]

    def check(self, ok: bool, allowed: str) -> None:
        """Raises UserError unless `ok`."""
        require(ok, "encoder", self.text, allowed)

    @property
    def is_random(self) -> bool:
        """True for `weights=random`.

        Raises:
          UserError: for another value.
        """
        weights = self.options.get("weights")
        self.check(weights in (None, "random"), "without weights=, or with weights=random")
        return weights is not None

    def mask_ratio(self, num_patches: int) -> float:
        """Returns the fraction of masked patches, 0 by default."""
        try:
            ratio = float(self.options.get("mask_ratio", 0))
        except ValueError:
            ratio = -1.0
        is_possible = 0 <= ratio < 1 and int(num_patches * (1 - ratio)) >= 1
        self.check(is_possible, "with mask_ratio=NUMBER in [0, 1) that leaves a patch")
        return ratio

    def preprocessing(self, recorded: Preprocessing) -> Preprocessing:
        """Returns the library's record, with the options that were given in its place."""
        given: dict[str, Any] = {}
        if "size" in self.options:
            given["size"] = parse_size(self.options["size"], f"size of {self.text!r}")
        for name in {"mean", "std"} & set(self.options):
            given[name] = self._numbers(name, recorded.channels)
        self.check(not any(x <= 0 for x in given.get("std", ())), "with std=NUMBER above 0")
        if "interpolation" in self.options:
            given["interpolation"] = self.options["interpolation"]
        found = dataclasses.replace(recorded, **given)
        allowed = f"with interpolation= one of {', '.join(INTERPOLATIONS)}"
        self.check(found.interpolation in INTERPOLATIONS, allowed)
        has_both = (found.mean is None) == (found.std is None)
        self.check(has_both, "with both mean= and std=, of pixels in 0..1")
        if given:
            found = dataclasses.replace(
                found, source=f"{recorded.source}; given: {', '.join(sorted(given))}"
            )
        return found

    def _numbers(self, name: str, channels: int | None) -> tuple[float, ...]:
        try:
            values = tuple(float(x) for x in self.options[name].split("/"))
        except ValueError:
            values = ()
        allowed = f"with {name}=NUMBER, or one a channel as in {name}=0.5/0.5/0.5"
        self.check(len(values) in {1, channels or 3} and all(np.isfinite(values)), allowed)
        return values


def parse(text: str) -> Spec:
    """Parses KIND:ARGUMENT[,KEY=VALUE...].

    Raises:
      UserError: for an unknown kind or option, and for a missing argument.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        require(False, "encoder", text, f"one of {FORMS}{hint}")
    options: dict[str, str] = {}
    argument = rest
    while "," in argument:
        head, _, tail = argument.rpartition(",")
        match = OPTION.fullmatch(tail)
        if match is None:
            break
        argument, options = head, {match["key"]: match["value"]} | options
    allowed = (*KINDS[kind].options, *PREPROCESSING)
    for key in options:
        known = f"with options of {kind}: {', '.join(allowed)}; {key} is none"
        require(key in allowed, "encoder", text, known)
    require(bool(argument), "encoder", text, KINDS[kind].form)
    return Spec(text, kind, argument, options)


def open_encoder(text: str) -> Encoder:
    """Opens an encoder by its address; its errors are raised as a UserError in one line.

    Raises:
      UserError: for an invalid address, a missing library, and weights that cannot be
        opened.
    """
    spec = parse(text)
    module = importlib.import_module(f"imae_jax.encoders.{KINDS[spec.kind].module}")
    encoder = module.open_encoder(spec)
    if spec.is_random:  # as a control of itself it would say nothing
        encoder = dataclasses.replace(encoder, untrained=None)
    return guarded(encoder)


def guarded(encoder: Encoder) -> Encoder:
    """Returns the encoder with any error of its function as a UserError in one line."""

    def function(images: np.ndarray) -> Any:
        try:
            return encoder.function(images)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{encoder.name} failed on images {list(images.shape)}: {describe(error)}"
            ) from error

    make: Callable | None = encoder.untrained
    untrained = None if make is None else lambda: guarded(make())
    return dataclasses.replace(encoder, function=function, untrained=untrained)
