"""Real models of timm and torchvision, with random weights, on their own preprocessing."""

import numpy as np
import pytest
from running import importer

import imae_jax
from imae_jax.encoders.spec import open_encoder

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def hub():
    """Imports a library; its absence is a failure where all of them are installed."""

    require = importer("IMAE_REQUIRE_OPTIONAL", ".ci/run optional")
    require("torchvision")
    return require


def preprocessed(encoder, torch):
    """The images as the encoder's record says, [N, C, H, W]."""
    images = encoder.preprocessing(IMAGES[:3])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("name,tokens", [("vit_tiny_patch16_224", 197), ("resnet18", 49)])
def test_timm(name, tokens, hub):
    timm, torch = hub("timm"), hub("torch")
    encoder = open_encoder(f"timm:{name},weights=random")
    record = timm.data.resolve_model_data_config(timm.create_model(name))
    size, mean = encoder.preprocessing.size, encoder.preprocessing.mean
    assert (size, mean) == (record["input_size"][1:], record["mean"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        wanted = model.forward_features(preprocessed(encoder, torch))
    if wanted.ndim == 4:
        wanted = wanted.flatten(2).permute(0, 2, 1)
    found = np.asarray(encoder(IMAGES[:3]))
    assert found.shape == (3, tokens, model.num_features)
    assert found == pytest.approx(wanted.numpy(), abs=1e-4)
    assert encoder.num_prefix == int(name.startswith("vit"))


@pytest.mark.parametrize("name,width", [("resnet18", 512), ("mobilenet_v3_small", 1024)])
def test_torchvision(name, width, hub):
    torchvision, torch = hub("torchvision"), hub("torch")
    encoder = open_encoder(f"torchvision:{name},weights=random")
    assert encoder.preprocessing.size == (224, 224)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval()
    found = np.asarray(encoder(IMAGES[:3]))
    assert found.shape == (3, width)
    linear = [x for x in model.modules() if isinstance(x, torch.nn.Linear)][-1]
    with torch.no_grad():
        wanted = model(preprocessed(encoder, torch))
        logits = linear(torch.from_numpy(found))
    assert logits.numpy() == pytest.approx(wanted.numpy(), abs=1e-4)


def test_they_are_measured_in_one_table(hub):
    hub("timm")
    size = "weights=random,size=32"
    addresses = [f"timm:resnet18,{size}", f"torchvision:resnet18,{size}"]
    train, test = IMAGES[:32], IMAGES[32:]
    options = dict(alphas=0.3, controls=False, seed=1)
    found = imae_jax.separability(addresses, train, test_images=test, **options)
    for row, address in zip(found.rows, addresses, strict=True):
        encoder = open_encoder(address)
        scores = imae_jax.mixture_separability(
            lambda x, encoder=encoder: np.asarray(encoder(x)),
            train,
            test,
            alpha=0.3,
            seed=1,
        )
        assert row.encoder == address and row.width == 512
        assert row.scores[0].gain == pytest.approx(scores["gain"], abs=1e-3)
