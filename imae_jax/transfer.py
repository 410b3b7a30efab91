"""Training a classifier: its augmentation and loss, and the encoder it starts from."""

from collections.abc import Mapping

import jax

from imae_jax import losses
from imae_jax.data import augment
from imae_jax.data.randaugment import rand_augment
from imae_jax.mixup import mixup_cutmix
from imae_jax.models.classifier import Classifier
from imae_jax.objectives import Loss, step_keys
from imae_jax.storage import pytrees


def make_loss(
    model: Classifier,
    *,
    mean: jax.Array,
    std: jax.Array,
    pad: int,
    flip: bool,
    crop_scale: tuple[float, float] | tuple[()],
    randaugment: Mapping | None = None,
    erasing: Mapping | None = None,
    mixup: Mapping | None = None,
) -> Loss:
    """The loss of a classifier, on images [B, H, W, C] uint8 with their labels [B].

    Everything is drawn with keys that are a function of (seed, step) alone, in timm's
    order: crop, shift and flip, RandAugment, erasing, mixup.

    Args:
      model: the classifier; it sees all patches.
      mean, std, pad, flip, crop_scale: see `objectives.make_loss`.
      randaugment, erasing: options of `rand_augment` and `augment.random_erasing`; without
        them, or where they would do nothing, not done.
      mixup: options of `mixup_cutmix`; without them labels are neither mixed nor smoothed.
    """

    def draw(batch, step, seed):
        images, labels = batch
        names = ("augment", "randaugment", "erasing", "mixup", "drop_path")
        keys = step_keys(seed, step, *names)
        images = augment.augment(keys["augment"], images, pad, flip, crop_scale)
        if randaugment and randaugment["num_ops"]:
            options = dict(randaugment, fill=mean)
            images = rand_augment(keys["randaugment"], images, **options)
        images = augment.standardise(images, mean, std)
        if erasing and erasing["probability"]:
            images = augment.random_erasing(keys["erasing"], images, **erasing)
        if mixup:
            images, targets = mixup_cutmix(
                keys["mixup"], images, labels, num_classes=model.num_classes, **mixup
            )
        else:
            targets = jax.nn.one_hot(labels, model.num_classes)
        return images, targets, jax.random.split(keys["drop_path"], len(images))

    def of(params, batch_stats, teacher_params, examples):
        del teacher_params
        images, targets, keys = examples
        logits, changed = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            is_training=True,
            rngs={"drop_path": keys[0]},  # each part of a batch has another first one
            mutable=["batch_stats"],
        )
        total, metrics = losses.classification_losses(logits, targets)
        return total, (metrics, changed.get("batch_stats", {}))

    return Loss(draw, of)


def pretrained_encoder(like: Mapping, loaded: Mapping, source: str) -> dict:
    """The encoder of a run, for a classifier; says what is not used and what is new.

    Args:
      like: the classifier's parameters, or what they look like.
      loaded: those of a MAE, an i-MAE or a classifier.
      source: which run they are of, for messages.
    Returns:
      `{"encoder": ...}`, copied: the state will be donated.
    Raises:
      UserError: if it does not fit, with each difference.
    """
    encoder = dict(loaded["encoder"])
    unused = sorted(loaded.keys() - {"encoder"})
    # A mean of tokens before the final LayerNorm has no use for it.
    if "norm" not in like["encoder"]["transformer"] and "norm" in encoder["transformer"]:
        blocks = {k: v for k, v in encoder["transformer"].items() if k != "norm"}
        encoder["transformer"] = blocks
        unused.append("encoder/transformer/norm")
    pytrees.check_same_tree(
        {"encoder": like["encoder"]}, {"encoder": encoder}, f"the encoder of {source}"
    )
    new = ", ".join(sorted(like.keys() - {"encoder"}))
    print(
        f"{source}: encoder loaded; not used: {', '.join(unused)}; new: {new}", flush=True
    )
    return {"encoder": jax.tree.map(lambda x: x.copy(), encoder)}
