"""Difficulty of the data set `shapes` for linear classifiers and a supervised ViT.

    python benchmarks/shapes.py [--epochs N] [--json PATH]

Prints, as JSON, the test accuracy of linear classifiers on raw pixels and on features of an
untrained ViT, and of that ViT trained with labels.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from optax import contrib  # noqa: E402
from sklearn.linear_model import LogisticRegression, RidgeClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from imae_jax.data import augment
from imae_jax.data.builders import shapes
from imae_jax.models.mae import Encoder  # noqa: E402

BATCH = 32


class Classifier(nn.Module):
    """The project's encoder with a linear layer on the mean of its patch tokens."""

    width: int
    depth: int
    heads: int

    def setup(self):
        self.encoder = Encoder(self.width, self.depth, self.heads, patch_size=4)
        self.head = nn.Dense(len(shapes.CLASSES), kernel_init=nn.initializers.zeros)

    def features(self, images):
        """Computes features [B, D] of normalized pixels [B, 32, 32, 3]."""
        return self.encoder(images)[:, 1:].mean(axis=1)

    def __call__(self, images):
        """Computes logits [B, 10] of normalized pixels [B, 32, 32, 3]."""
        return self.head(self.features(images))


def draw_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Draws the pictures [N, 32, 32, 3] uint8 and labels [N] of a split."""
    drawn = [shapes.draw(index) for index in shapes.indices(split)]
    images, factors = zip(*drawn, strict=True)
    return np.stack(images), np.array([each["label"] for each in factors])


def probe(classifier, train, test) -> float:
    """Test accuracy of a scikit-learn classifier on normalized inputs."""
    pipeline = make_pipeline(StandardScaler(), classifier)
    inputs, labels = train
    return pipeline.fit(inputs, labels).score(*test)


def apply_batched(function, images: np.ndarray) -> np.ndarray:
    """Applies `function` to batches of a thousand images."""
    parts = [function(images[i : i + 1000]) for i in range(0, len(images), 1000)]
    return np.concatenate(parts)


def train_classifier(network, params, normalize, images, labels, epochs):
    """Trains with labels, on randomly mirrored images; returns the parameters."""
    steps_per_epoch = len(images) // BATCH
    steps = epochs * steps_per_epoch
    # Muon: with AdamW the network needs several times as many epochs.
    rate = optax.warmup_cosine_decay_schedule(0, 1, min(200, steps // 10), steps)
    optimizer = contrib.muon(
        lambda count: 1e-2 * rate(count),
        weight_decay=0.01,
        adam_b2=0.99,
        adam_weight_decay=0.01,
        adam_learning_rate=lambda count: 1e-3 * rate(count),
    )

    def loss(params, images, labels):
        logits = network.apply(params, normalize(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, key, images, labels):
        # Every shape is a rotation of its mirror image.
        mirrored, turned = jax.random.split(key)
        images = augment.random_flip(mirrored, images)
        images = augment.random_flip(turned, images.swapaxes(1, 2))
        value, gradient = jax.value_and_grad(loss)(params, images, labels)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    random = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(1), steps)
    for epoch in range(epochs):
        values, start = [], time.perf_counter()
        order = random.permutation(len(images))[: steps_per_epoch * BATCH]
        for batch, key in zip(
            order.reshape(-1, BATCH), keys[epoch * steps_per_epoch :], strict=False
        ):
            params, state, value = step(params, state, key, images[batch], labels[batch])
            values.append(value)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}: loss {np.mean(values):.3f}, {seconds:.0f} s", flush=True)
    return params


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    (images, labels), (test_images, test_labels) = map(draw_split, ("train", "test"))
    flat, test_flat = (
        x.reshape(len(x), -1) / np.float32(255) for x in (images, test_images)
    )
    result = vars(arguments) | {"device": jax.devices()[0].device_kind}
    del result["json"]
    # Slightly better than the default alpha.
    result["raw_pixels"] = probe(
        RidgeClassifier(alpha=1000), (flat, labels), (test_flat, test_labels)
    )
    print(f"raw pixels: {result['raw_pixels']:.3f}", flush=True)

    pixels = images.astype(np.float64)
    normalize = functools.partial(
        augment.normalize,
        mean=pixels.mean(axis=(0, 1, 2)).astype(np.float32),
        std=pixels.std(axis=(0, 1, 2)).astype(np.float32),
    )
    network = Classifier(arguments.width, arguments.depth, arguments.heads)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    features = jax.jit(lambda x: network.apply(params, normalize(x), method="features"))
    result["untrained_vit"] = probe(
        LogisticRegression(max_iter=1000),
        (apply_batched(features, images), labels),
        (apply_batched(features, test_images), test_labels),
    )
    print(f"untrained ViT: {result['untrained_vit']:.3f}", flush=True)

    start = time.perf_counter()
    trained = train_classifier(network, params, normalize, images, labels, arguments.epochs)
    result["training_seconds"] = round(time.perf_counter() - start)
    predict = jax.jit(lambda x: network.apply(trained, normalize(x)).argmax(axis=-1))
    result["supervised_vit"] = float(
        (apply_batched(predict, test_images) == test_labels).mean()
    )
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
