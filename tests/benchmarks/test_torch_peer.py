"""The benchmark's PyTorch side makes the same step as ours."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import TOLERANCE

from imae_jax.interop import huggingface, mae_names
from imae_jax.models import masking, patches
from imae_jax.models.factory import build_autoencoder
from imae_jax.models.forward import forward
from imae_jax.models.layers import Compute
from imae_jax.objectives import losses, mixing
from imae_jax.objectives.distillation import teacher_latents
from imae_jax.storage.pytrees import check_same_tree, nested
from imae_jax.training.state import init_params

WORKER = Path(__file__).parents[2] / "benchmarks" / "torch_peer.py"
SIZE = dict(width=32, depth=1, heads=2)
SPEC = dict(
    image_shape=[16, 16, 3], mask_ratio=0.75, patch_size=4, encoder=SIZE, decoder=SIZE
)


def work(lines, **changes):
    """The worker's exit status and what it answers."""
    request = dict(batch_size=4, dtype="float32", compiled=False, shared_mask=False)
    run = subprocess.run(
        [sys.executable, WORKER],
        input="\n".join([json.dumps(SPEC | request | changes), *lines]),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines()]


def our_network(name):
    return build_autoencoder(
        name=name,
        variant="mu/4",
        encoder=SIZE,
        decoder=SIZE | dict(attention="self"),
        image_shape=tuple(SPEC["image_shape"]),
        compute=Compute(),
    )


@pytest.fixture(scope="module")
def peer(parity):
    torch = parity("torch")
    parity("transformers")
    from benchmarks import torch_peer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores, several wait for each other for seconds
    yield torch_peer
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_worker_makes_steps(peer):
    status, (ready, *steps) = work(["step", "step"], kind="mae")
    assert status == 0
    assert ready.keys() == {"compile_seconds", "versions", "device"}
    assert ready["versions"].keys() == {"torch", "transformers"}
    assert len(steps) == 2
    for step in steps:
        assert step["seconds"] > 0 and math.isfinite(step["loss"])


@pytest.mark.slow
def test_worker_says_in_one_line_what_failed(peer):
    status, (_, step, failure) = work(["step", "stop"], kind="imae", shared_mask=True)
    assert status == 1
    assert math.isfinite(step["loss"])
    assert "stop" in failure["error"]


def test_images_that_vitmae_cannot_take_are_refused(peer):
    with pytest.raises(ValueError, match="16x12"):
        peer.make_config(**SPEC | dict(image_shape=[16, 12, 3]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "kind, channels, shared_mask",
    [("mae", 1, False), ("imae", 3, False), ("imae", 3, True)],
)
def test_steps_of_every_kind_train(peer, kind, channels, shared_mask, dtype):
    step = peer.make_step(
        **SPEC | dict(image_shape=[16, 16, channels]),
        kind=kind,
        batch_size=4,
        dtype=dtype,
        compiled=False,
        shared_mask=shared_mask,
    )
    first, *_, last = (step()[1] for _ in range(10))
    assert math.isfinite(first) and last < first


def torch_network(peer, kind):
    """One in which every weight, biases too, is random, and positions are MAE's."""
    import torch

    network = peer.make_network(kind, peer.make_config(**SPEC))
    positions = torch.from_numpy(patches.sincos_position_embedding(32, (4, 4)))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "pos" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter[0] = torch.cat([torch.zeros(1, 32), positions])
    return network


# In transformers' code, and in its files.
RENAMED = {
    "vit.layers.": "vit.encoder.layer.",
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    "attention.o_proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}


def to_jax(state):
    """A ViTMAE's weights under our names."""
    renamed = {}
    for name, value in state.items():
        for here, there in RENAMED.items():
            name = name.replace(here, there)
        renamed[name] = value.numpy()
    names = mae_names.encoder_names(1) + mae_names.decoder_names(1, ["decoder_embed"])
    found = huggingface.from_hugging_face(renamed, [name.theirs for name in names])
    return nested({n.ours: mae_names.to_ours(found[n.theirs], n.form) for n in names})


def student_to_jax(student):
    """`to_jax`, with two heads in place of `decoder_embed`."""
    state = student.state_dict()
    heads = {}
    for head in ("disentangle_subordinate", "disentangle_dominant"):
        for part in ("weight", "bias"):
            state[f"decoder.decoder_embed.{part}"] = state.pop(f"{head}.{part}")
        params = to_jax(state)
        heads[head] = params.pop("decoder_embed")
    return params | heads


@pytest.mark.parametrize("shared_mask", [False, True])
def test_loss_is_ours(peer, shared_mask):
    import torch

    torch.manual_seed(0)
    student, teacher = torch_network(peer, "imae"), torch_network(peer, "mae")
    random = np.random.default_rng(0)
    images = random.normal(size=(6, 16, 16, 3)).astype(np.float32)
    alpha = random.uniform(0, 0.5, size=6).astype(np.float32)
    noise = random.uniform(size=(6, 16)).astype(np.float32)
    if shared_mask:
        noise = np.repeat(noise[:3], 2, axis=0)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    expected = peer.imae_loss(
        student,
        teacher,
        pixels,
        torch.from_numpy(alpha),
        torch.from_numpy(noise),
        shared_mask,
    ).item()

    networks = {name: our_network(name) for name in ("imae", "mae")}
    params = {"imae": student_to_jax(student), "mae": to_jax(teacher.state_dict())}
    for name, network in networks.items():
        own = jax.eval_shape(functools.partial(init_params, network, 0))
        check_same_tree(own, params[name], "the peer")

    @jax.jit
    def our_loss(params):
        sources = mixing.group_sources(jnp.asarray(images))
        mask = masking.mask_from_noise(jnp.asarray(noise), SPEC["mask_ratio"])
        mixtures = mixing.Mixtures(mixing.mix(sources, alpha), sources, alpha, mask)
        return losses.imae_losses(
            forward(networks["imae"], params["imae"], mixtures.mixture, mask),
            losses.target_patches(sources, SPEC["patch_size"], norm_pix=False),
            mask.mask,
            teacher_latents(
                networks["mae"], params["mae"], mixtures, shared_mask=shared_mask
            ),
            1.0,
        )[0]

    np.testing.assert_allclose(our_loss(params), expected, rtol=TOLERANCE)
