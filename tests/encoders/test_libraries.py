"""Each library's encoders with random weights, against its own model on the same pixels."""

import json
import sys
import types

import numpy as np
import pytest

import imae_jax
from imae_jax.encoders.spec import open_encoder
from imae_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
MEAN, STD = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)


def pixels(images):
    """NCHW of images that are 8x8 already, as the record of MEAN and STD says."""
    found = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2))


def check(spec, features):
    """The encoder's features, and the scores of the array function on the same."""
    encoder = open_encoder(spec)
    given = np.asarray(encoder(IMAGES[:5].astype(np.float32)))
    wanted = np.asarray(features(IMAGES[:5]))
    assert given == pytest.approx(wanted.reshape(given.shape), abs=1e-4)
    options = dict(alphas=0.3, controls=False, features="tokens", seed=1)
    found = imae_jax.separability(encoder, IMAGES[:40], test_images=IMAGES[40:], **options)
    scores = imae_jax.mixture_separability(
        lambda x: np.asarray(features(x)), IMAGES[:40], IMAGES[40:], alpha=0.3, seed=1
    )
    assert found.gain == pytest.approx(scores["gain"], abs=1e-3)
    return encoder


@pytest.fixture(scope="module")
def torch(parity):
    return parity("torch")


@pytest.mark.parametrize("kind", ["vit", "vit_mae"])
def test_transformers(kind, parity, torch, tmp_path):
    transformers = parity("transformers")
    size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    size |= dict(intermediate_size=16, image_size=8, patch_size=4)
    config = transformers.AutoConfig.for_model(kind, **size)
    torch.manual_seed(1)
    module = transformers.AutoModel.from_config(config).eval()
    module.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="with mean= and std=, which it does not record"):
        open_encoder(f"hf:{tmp_path}")
    record = dict(size=dict(height=8, width=8), image_mean=MEAN, image_std=STD, resample=3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(record))
    options = {}
    if kind == "vit_mae":
        module.config.mask_ratio = 0.0
        options = dict(noise=torch.arange(4.0)[None])

    def features(images):
        given = torch.from_numpy(pixels(images))
        noise = {name: x.repeat(len(images), 1) for name, x in options.items()}
        with torch.no_grad():
            return module(pixel_values=given, **noise).last_hidden_state

    encoder = check(f"hf:{tmp_path}", features)
    assert encoder.num_prefix == 1
    assert "8x8 bicubic, mean 0.2/0.3/0.4, std 0.5/0.6/0.7" in repr(encoder)
    _check_record(record, f"hf:{tmp_path}", tmp_path / "preprocessor_config.json")
    other = np.asarray(encoder.untrained()(IMAGES[:5].astype(np.float32)))
    assert not np.allclose(other, encoder(IMAGES[:5].astype(np.float32)))
    if kind == "vit_mae":
        masked = open_encoder(f"hf:{tmp_path},mask_ratio=0.5")
        assert masked(IMAGES[:3].astype(np.float32)).shape == (3, 3, 8)
        assert "2 of 4 patches" in masked.shown and masked.num_prefix == 1
    drawn = open_encoder(f"hf:{tmp_path},weights=random")(IMAGES[:5].astype(np.float32))
    np.testing.assert_array_equal(drawn, other)


def _check_record(record, address, path):
    """Pixels that are not rescaled to 0..1 have no known mean and std."""
    for options in ({"do_rescale": False}, {"rescale_factor": 1.0}):
        path.write_text(json.dumps(record | options))
        with pytest.raises(UserError, match="of pixels in 0..1: its record does not resc"):
            open_encoder(address)
        assert "mean 0, std 1" in repr(open_encoder(f"{address},mean=0,std=1"))
    path.write_text(json.dumps(record | {"do_normalize": False}))
    assert "mean 0, std 1" in repr(open_encoder(address))
    path.write_text(json.dumps(record))


@pytest.fixture
def timm(monkeypatch, torch):
    """A stand-in for timm: its functions that are called, by name and result."""
    module = types.ModuleType("timm")

    class Net(torch.nn.Module):
        num_features = 6

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 6, 4, 4)

        def forward_features(self, x):
            return self.conv(x)

    def create_model(name, pretrained, num_classes):
        if name != "net":
            raise RuntimeError(f"Unknown model ({name})")
        assert num_classes == 0
        if pretrained:
            raise OSError("no network")
        return Net()

    record = dict(input_size=(3, 8, 8), mean=MEAN, std=STD, interpolation="bicubic")
    module.create_model = create_model
    module.data = types.SimpleNamespace(resolve_model_data_config=lambda model: record)
    monkeypatch.setitem(sys.modules, "timm", module)
    return Net


def test_timm(timm, torch, tmp_path, capsys):
    torch.manual_seed(1)
    net = timm()
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)

    def features(images):
        with torch.no_grad():
            found = net.conv(torch.from_numpy(pixels(images)))
        return found.permute(0, 2, 3, 1).reshape(len(images), 4, 6)

    encoder = check(f"timm:net,checkpoint={path}", features)
    assert encoder.untrained is not None and "timm's pretrained_cfg" in repr(encoder)
    assert open_encoder("timm:net,weights=random")(IMAGES[:2]).shape == (2, 4, 6)
    torch.save(net.state_dict() | {"head.weight": torch.ones(2)}, path)
    open_encoder(f"timm:net,checkpoint={path}")
    assert "1 arrays not used, as head.weight" in capsys.readouterr().out
    torch.save({"conv.weight": net.conv.weight.data}, path)
    for spec, said in {
        f"timm:net,checkpoint={path}": "conv.bias is missing; it must be \\[6\\]",
        "timm:other": "Unknown model \\(other\\)",
        "timm:net": "no network",
        "timm:net,weights=best": "with weights=random",
        f"timm:net,weights=random,checkpoint={path}": "not both",
    }.items():
        with pytest.raises(UserError, match=said):
            open_encoder(spec)


def test_torchvision(monkeypatch, torch):
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(192, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)
    )
    record = types.SimpleNamespace(
        crop_size=[8],
        mean=MEAN,
        std=STD,
        interpolation=types.SimpleNamespace(value="bilinear"),
    )
    weights = types.SimpleNamespace(
        DEFAULT=types.SimpleNamespace(transforms=lambda: record)
    )
    module = types.ModuleType("torchvision")
    module.models = types.SimpleNamespace(
        get_model_weights=lambda name: weights, get_model=lambda name, weights: net
    )
    monkeypatch.setitem(sys.modules, "torchvision", module)

    def features(images):
        with torch.no_grad():
            return net[:3](torch.from_numpy(pixels(images)))

    check("torchvision:net", features)


@pytest.fixture
def onnx_file(parity, tmp_path):
    """A file with outputs `map` [N, 5, 4, 4] and `mean` [N, 5], and `rectified` within."""
    onnx = parity("onnx")
    kernel = np.random.default_rng(1).normal(size=(5, 3, 2, 2)).astype(np.float32)
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "kernel"], ["map"], strides=[2, 2]),
        node("Relu", ["map"], ["rectified"]),
        node("ReduceMean", ["rectified"], ["mean"], axes=[2, 3], keepdims=0),
    ]

    def tensor(name, shape):
        kind = onnx.TensorProto.FLOAT
        return onnx.helper.make_tensor_value_info(name, kind, shape)

    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [tensor("x", ["N", 3, "H", "W"])],
        [tensor("map", ["N", 5, "h", "w"]), tensor("mean", ["N", 5])],
        [onnx.numpy_helper.from_array(kernel, "kernel")],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    return path, kernel


RECORD = f"mean={'/'.join(map(str, MEAN))},std={'/'.join(map(str, STD))}"


def test_onnx(onnx_file, parity):
    parity("onnxruntime")
    path, kernel = onnx_file

    def feature_map(images):
        patches = pixels(images).reshape(-1, 3, 4, 2, 4, 2)
        found = np.einsum("bchiwj,kcij->bhwk", patches, kernel)
        return found.reshape(len(images), -1, 5)

    def rectified(images):
        return np.maximum(feature_map(images), 0)

    check(f"onnx:{path},output=map,size=8,{RECORD}", feature_map)
    check(f"onnx:{path},output=rectified,size=8,{RECORD}", rectified)
    features = check(
        f"onnx:{path},output=mean,size=8,{RECORD}", lambda x: rectified(x).mean(axis=1)
    )
    assert features(IMAGES[:2]).shape == (2, 5)


def test_options_that_an_onnx_file_needs(onnx_file, parity, monkeypatch):
    parity("onnxruntime")
    path, _ = onnx_file
    for options, said in {
        "": "with output= one of map, mean",
        ",output=rectifed": r"within the graph \(near 'rectifed': rectified\)",
        ",output=x": "with output= one of map, mean, or a tensor within the graph$",
        ",output=mean": "with mean= and std=",
        f",output=mean,{RECORD}": "with size=HEIGHTxWIDTH",
    }.items():
        with pytest.raises(UserError, match=said):
            open_encoder(f"onnx:{path}{options}")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="needs onnx, .*: pip install onnx"):
        open_encoder(f"onnx:{path},output=rectified,size=8,{RECORD}")
    open_encoder(f"onnx:{path},output=mean,size=8,{RECORD}")


@pytest.mark.parametrize(
    "spec,library",
    [
        ("timm:net", "timm"),
        ("torchvision:net", "torchvision"),
        ("onnx:net.onnx", "onnxruntime"),
        ("hf:net", "torch"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, spec, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"'{spec}': needs {library}, .*: pip install"):
        open_encoder(spec)
