"""Registry of data set builders, image forms and symmetries, by data set name."""

from imae_jax.data.builders import shapes
from imae_jax.data.builders.cifar import Cifar10, Cifar100
from imae_jax.data.builders.digits import Digits
from imae_jax.data.builders.tiny_imagenet import TinyImagenet

# Prepared on first use.
BUILDERS = {
    "digits": Digits,
    "shapes": shapes.Shapes,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "tiny_imagenet": TinyImagenet,
}
# (H, W, C), number of classes, number of training images.
FORMS = {
    "digits": ((8, 8, 1), 10, 1297),
    "shapes": ((32, 32, 3), 10, 20_000),
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "tiny_imagenet": ((64, 64, 3), 200, 100_000),
}
# Symmetry orders of angular factors, see `dataset.Dataset`.
SYMMETRY = {"shapes": shapes.SYMMETRY}
