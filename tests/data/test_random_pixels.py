"""What all random changes of images have in common."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.data import augment, randaugment
from imae_jax.distributed import sharding
from imae_jax.objectives import mixup

# What a compiled program calls where devices, or host and device, exchange data; but for
# one bit, whether all have drawn: rejection sampling goes on until then.
ONE_BIT = r"pred\[\] all-reduce"
TALKS = "all-(to-all|gather|reduce)|collective-permute|reduce-scatter|callback|outfeed"
LABELS = dict(
    num_classes=4,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    switch_probability=0.5,
    smoothing=0.1,
)


def mix_images(key, images):
    """Without targets."""
    return mixup.mixup_cutmix(key, images, jnp.arange(len(images)) % 4, **LABELS)[0]


ON_UINT8 = {
    "augment": functools.partial(
        augment.augment, pad=2, pad_mode="reflect", flip=True, crop_scale=(0.2, 1.0)
    ),
    "rand_augment": functools.partial(
        randaugment.rand_augment,
        num_ops=2,
        magnitude=9.0,
        magnitude_std=0.5,
        probability=0.9,
        fill=(100.0, 120.0, 140.0),
    ),
}
ON_FLOAT = {
    "random_erasing": functools.partial(
        augment.random_erasing, probability=0.9, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3)
    ),
    "mixup_cutmix": mix_images,
}
FUNCTIONS = ON_UINT8 | ON_FLOAT


def images_for(name, same=False):
    """16 images; if `same`, of equal pixels but for the pairs, that mixing needs to see."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
    if same:
        images = np.tile(images[:2], (8, 1, 1, 1))
    return images if name in ON_UINT8 else images.astype(np.float32)


@pytest.fixture(scope="module", params=FUNCTIONS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def run(name):
    return jax.jit(FUNCTIONS[name])


def test_shape_and_type_are_kept_and_the_key_decides(name, run):
    images = images_for(name)
    key = jax.random.key(1)
    first = run(key, images)
    assert first.shape == images.shape and first.dtype == images.dtype
    np.testing.assert_array_equal(first, run(key, images))
    assert np.any(first != run(jax.random.key(2), images))


def test_each_image_has_its_own_draw(name, run):
    changed = np.asarray(run(jax.random.key(1), images_for(name, same=True)))
    assert len({image.tobytes() for image in changed[::2]}) >= 7


def test_devices_do_not_matter_and_exchange_no_pixels(name):
    images, key = images_for(name), jax.random.key(1)
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = sharding.make_mesh(devices)
        batch, copies = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        run = jax.jit(FUNCTIONS[name], in_shardings=(copies, batch), out_shardings=batch)
        compiled = run.lower(key, images).compile()
        for line in compiled.as_text().splitlines():
            assert re.search(ONE_BIT, line) or not re.search(TALKS, line)
        results.append(compiled(key, jax.device_put(images, batch)))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-4)
