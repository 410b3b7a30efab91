"""`onnx:FILE`: any ONNX file with one image input, run by onnxruntime."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from imae_jax.encoders.encoder import Encoder, Preprocessing, import_library
from imae_jax.encoders.spec import Spec
from imae_jax.encoders.torch_modules import opened
from imae_jax.storage.local_paths import local_path


def open_encoder(spec: Spec) -> Encoder:
    """Opens an ONNX file.

    A file records no normalization: `mean` and `std` must be given, and `size` if its input
    is of any size; `output` if it has several, or to read a tensor within the graph, such
    as the features before a head.

    Raises:
      UserError: if onnxruntime (or, for a tensor within, onnx) is missing, the file cannot
        be opened, or an option is missing or wrong.
    """
    runtime = import_library("onnxruntime", spec.text)
    path = local_path(spec.argument, "encoder")
    spec.check(path.is_file(), "onnx:FILE; there is no such file")

    def start(model: str | bytes) -> Any:
        providers = runtime.get_available_providers()
        return opened(
            spec.text, lambda: runtime.InferenceSession(model, providers=providers)
        )

    session = start(str(path))
    inputs, outputs = session.get_inputs(), [x.name for x in session.get_outputs()]
    spec.check(len(inputs) == 1, f"a file with one input; it has {len(inputs)}")
    shape, kind = list(inputs[0].shape), inputs[0].type
    is_image = len(shape) == 4 and kind == "tensor(float)"
    spec.check(is_image, f"a file of float images; its input is {kind} {shape}")
    is_first, is_last = (shape[axis] in (1, 3) for axis in (1, 3))
    text = f"a file whose input is [N, C, H, W] or [N, H, W, C]; it is {shape}"
    spec.check(is_first != is_last, text)
    channels, sides = shape[1 if is_first else 3], shape[2:] if is_first else shape[1:3]
    output = spec.options.get("output", outputs[0] if len(outputs) == 1 else "")
    spec.check(bool(output), f"with output= one of {', '.join(outputs)}")
    if output not in outputs:
        session = start(_with_output(spec, path, output, outputs))
    spec.check({"mean", "std"} <= spec.options.keys(), "with mean= and std= (pixels 0..1)")
    is_sized = all(isinstance(side, int) for side in sides)
    text = f"with size=HEIGHTxWIDTH: the file takes {sides}"
    spec.check(is_sized or "size" in spec.options, text)
    size = tuple(sides) if is_sized else None
    recorded = Preprocessing(size, channels, source="the file's input")
    # A fixed batch of 1 is common.
    batch = shape[0] if isinstance(shape[0], int) else None
    spec.check(batch in (None, 1), f"a file that takes any number of images, not {batch}")

    def function(images: np.ndarray) -> np.ndarray:
        given = np.ascontiguousarray(images.transpose(0, 3, 1, 2) if is_first else images)
        parts = [given] if batch is None else np.split(given, len(given))
        found = [session.run([output], {inputs[0].name: part})[0] for part in parts]
        features = np.concatenate(found)
        if features.ndim == 4:  # a map of features, in the input's layout
            features = features.transpose(0, 2, 3, 1) if is_first else features
            features = features.reshape(len(features), -1, features.shape[-1])
        return features

    return Encoder(spec.text, function, spec.preprocessing(recorded))


def _with_output(spec: Spec, path: Path, name: str, outputs: list[str]) -> bytes:
    """Returns a file's contents with one more output, a tensor within its graph.

    Raises:
      UserError: if onnx is missing, or there is no such tensor.
    """
    onnx = import_library("onnx", spec.text)
    model = opened(spec.text, lambda: onnx.load(str(path)))
    inner = [tensor for node in model.graph.node for tensor in node.output]
    near = difflib.get_close_matches(name, inner)
    hint = f" (near {name!r}: {', '.join(near)})" if near else ""
    known = f"with output= one of {', '.join(outputs)}, or a tensor within the graph{hint}"
    spec.check(name in inner, known)
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model.SerializeToString()
