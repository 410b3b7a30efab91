import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from imae_jax.data import randaugment

KEY = jax.random.key(0)
MAE = dict(num_ops=2, magnitude=9.0, magnitude_std=0.5, probability=0.5, fill=128.0)
FILL = (10, 130, 250)
operate = jax.jit(jax.vmap(randaugment.operate, in_axes=(0, None, None, None)))


def pictures():
    """Smooth, noisy, of little contrast, and of one value in one channel."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    smooth = Image.fromarray(noise[:5, :6]).resize((50, 40), Image.Resampling.BICUBIC)
    flat = np.asarray(smooth) // 4 + 90
    single = noise.copy()
    single[..., 1] = 77
    return np.stack([np.asarray(smooth), noise, flat, single])


def solarize_add(image, added):
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def affine(image, *matrix):
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=FILL,
    )


# Every operation as timm's "inc1" set defines it, of a level in [-1, 1], on Pillow images.
PILLOW = {
    "autocontrast": lambda x, level: ImageOps.autocontrast(x),
    "equalize": lambda x, level: ImageOps.equalize(x),
    "invert": lambda x, level: ImageOps.invert(x),
    "posterize": lambda x, level: ImageOps.posterize(x, max(1, 4 - int(4 * abs(level)))),
    "solarize": lambda x, level: ImageOps.solarize(x, 256 - int(256 * abs(level))),
    "solarize_add": lambda x, level: solarize_add(x, int(110 * abs(level))),
    "colour": lambda x, level: ImageEnhance.Color(x).enhance(1 + 0.9 * level),
    "contrast": lambda x, level: ImageEnhance.Contrast(x).enhance(1 + 0.9 * level),
    "brightness": lambda x, level: ImageEnhance.Brightness(x).enhance(1 + 0.9 * level),
    "sharpness": lambda x, level: ImageEnhance.Sharpness(x).enhance(1 + 0.9 * level),
    "rotate": lambda x, level: x.rotate(
        30 * level, Image.Resampling.BILINEAR, fillcolor=FILL
    ),
    "shear_x": lambda x, level: affine(x, 1, 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda x, level: affine(x, 1, 0, 0, 0.3 * level, 1, 0),
    "translate_x": lambda x, level: affine(x, 1, 0, 0.45 * level * x.width, 0, 1, 0),
    "translate_y": lambda x, level: affine(x, 1, 0, 0, 0, 1, 0.45 * level * x.height),
}
EXACT = ("equalize", "invert", "posterize", "solarize", "solarize_add")
# Grey levels. Pillow cuts fractions off where ours are rounded; it rounds the smoothed
# image that sharpness is measured from to other neighbours at ties.
TOLERANCE = dict.fromkeys(EXACT, 0) | {"sharpness": 2}


def test_all_operations_are_compared():
    assert tuple(PILLOW) == randaugment.OPERATIONS


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("level", [-1.0, -0.37, 0.0, 0.61, 0.9])
def test_operations_are_pillows(name, level):
    images = pictures()
    index = randaugment.OPERATIONS.index(name)
    ours = operate(images.astype(np.float32), index, level, jnp.array(FILL))
    theirs = np.stack([PILLOW[name](Image.fromarray(image), level) for image in images])
    difference = np.abs(np.asarray(ours) - theirs)
    assert difference.max() <= TOLERANCE.get(name, 1)


def test_grey_images():
    image = jnp.asarray(pictures()[..., :1], jnp.float32)
    for index, name in enumerate(randaugment.OPERATIONS):
        changed = operate(image, index, 0.5, 0.0)
        assert changed.shape == image.shape
        if name == "colour":  # grey has none
            np.testing.assert_array_equal(changed, image)


def same(changed, images):
    return np.all(np.asarray(changed) == images, axis=(1, 2, 3))


def test_probability_and_number_of_operations():
    images = np.repeat(pictures()[2:3, :16, :16], 400, axis=0)  # all change it
    rand_augment = jax.jit(randaugment.rand_augment, static_argnames="num_ops")
    kept = {}
    for probability in (0.0, 0.5, 1.0):
        for num_ops in (1, 2):
            kwargs = MAE | dict(num_ops=num_ops, probability=probability)
            changed = rand_augment(KEY, images, **kwargs)
            kept[num_ops, probability] = same(changed, images).mean()
    assert kept[1, 0.0] == kept[2, 0.0] == 1
    assert kept[1, 1.0] == 0
    assert kept[2, 1.0] < 0.02  # inverted twice, and the like
    assert abs(kept[1, 0.5] - 0.5) < 0.08
    assert abs(kept[2, 0.5] - 0.25) < 0.08


def test_operations_are_drawn_evenly_in_both_directions(monkeypatch):
    def record(image, index, level, fill):
        return jnp.full_like(image, index * 10 + jnp.sign(level))

    monkeypatch.setattr(randaugment, "operate", record)
    kwargs = MAE | dict(num_ops=1, probability=1.0)
    images = np.zeros((3000, 1, 1, 1), np.int32)
    drawn = np.asarray(randaugment.rand_augment(KEY, images, **kwargs)).ravel()
    values, counts = np.unique(drawn, return_counts=True)
    assert len(values) == 30
    assert counts.min() > 60 and counts.max() < 145


def test_magnitude_is_drawn_and_clipped(monkeypatch):
    def record(image, index, level, fill):
        return jnp.full_like(image, jnp.round(jnp.abs(level) * 1e4))

    monkeypatch.setattr(randaugment, "operate", record)
    images = np.zeros((3000, 1, 1, 1), np.int32)

    def magnitudes(**changes):
        kwargs = MAE | dict(num_ops=1, probability=1.0) | changes
        return np.asarray(randaugment.rand_augment(KEY, images, **kwargs)).ravel() / 1e3

    drawn = magnitudes()
    assert abs(drawn.mean() - 9) < 0.05 and abs(drawn.std() - 0.5) < 0.05
    assert drawn.max() == 10
    np.testing.assert_allclose(magnitudes(magnitude_std=0.0), 9)
    assert magnitudes(magnitude=0.0).min() == 0
