"""Main results of a run as plain sentences."""

from collections.abc import Iterator, Mapping, Sequence

from imae_jax.evaluators.tables import Numbers, branches_of

# Networks that have learned almost nothing may have a gain up to this (docs/theory.md).
SMALL_GAIN = 0.05


def _percent(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _all(numbers: Numbers, key: str) -> list[float] | None:
    """Returns a metric of all branches, or None; `{}` in `key` stands for the branch."""
    keys = [key.format(branch) for branch in branches_of(numbers)]
    return [numbers[key] for key in keys] if all(key in numbers for key in keys) else None


def _both(numbers: Numbers, key: str) -> list[float] | None:
    """Returns a metric of both branches; None also where there are more than two."""
    found = _all(numbers, key)
    return found if found and len(found) == 2 else None


def _images(numbers: Numbers) -> str:
    """Names the images of a mixture: "both images", or "all 3 images"."""
    count = len(branches_of(numbers))
    return "both images" if count == 2 else f"all {count} images"


def _listed(numbers: Numbers, texts: Sequence[str]) -> str:
    """Lists a text of each branch, such as "subordinate 48 %, dominant 92 %"."""
    named = zip(branches_of(numbers), texts, strict=True)
    return ", ".join(f"{branch.replace('_', ' ')} {text}" for branch, text in named)


def _shows_separation(numbers: Numbers) -> bool:
    """True if the gain is above what chance gives, and that of the untrained network."""
    untrained = numbers.get("separability/baselines/random/gain", 0.0)
    return numbers["separability/gain"] > max(untrained, 0.0) + SMALL_GAIN


def _excesses(numbers: Numbers) -> dict[str, float]:
    """Returns each branch's R2 less that of superposition; empty if not measured."""
    own = _all(numbers, "separability/{}/r2") or ()
    null = _all(numbers, "separability/{}/r2_null") or ()
    names = (branch.replace("_", " ") for branch in branches_of(numbers))
    return {name: x - y for name, x, y in zip(names, own, null, strict=False)}


def _holds_all(excesses: Mapping[str, float]) -> bool:
    """True if no image is held less than in superposition, but for what chance takes."""
    return all(x >= -SMALL_GAIN / len(excesses) for x in excesses.values())


def lead(numbers: Numbers, who: str) -> str:
    """The main result in one line: the gain, beside that of pure superposition.

    Args:
      who: the kind of model, such as "i-MAE".
    Returns:
      The line; empty if the gain was not measured.
    """
    gain = numbers.get("separability/gain")
    if gain is None:
        return ""
    images = _images(numbers)
    found = f"hold no more than the sum of {images}"
    if _shows_separation(numbers):
        found = f"hold {images}"
        if not _holds_all(_excesses(numbers)):
            found = f"hold more than the sum of {images}"
    elif gain > 0:
        found = f"show no separation of {images}"
    return f"The {who}'s latents {found}: gain {gain:+.2f} (superposition: 0)"


def other_gains(numbers: Numbers) -> list[str]:
    """Gains of the networks that a run is compared with."""
    known = {
        "MAE, shown the mixture": "mae_on_mixture",
        "i-MAE without distillation": "without_distillation",
        "untrained": "random",
        "raw pixels": "raw_pixels",
    }
    gains = {
        label: numbers.get(f"separability/baselines/{row}/gain")
        for label, row in known.items()
    }
    return [f"{label} {x:+.2f}" for label, x in gains.items() if x is not None]


def separated(numbers: Numbers) -> Iterator[str]:
    """Gain over superposition with its baselines, each branch's R2 with its null."""
    gain, own = numbers.get("separability/gain"), _all(numbers, "separability/{}/r2")
    null = _all(numbers, "separability/{}/r2_null")
    if gain is None or own is None or null is None:
        return
    images = _images(numbers)
    if _shows_separation(numbers):
        said = (
            f"The latents of a mixture hold {images} better than their sum does by a gain "
            f"of {gain:+.2f}"
        )
        excesses = _excesses(numbers)
        if not _holds_all(excesses):
            gained = " and ".join(branch for branch, x in excesses.items() if x > 0)
            said = (
                f"The latents of a mixture hold more than the sum of {images} by a gain of "
                f"{gain:+.2f}, all of it of the {gained} image"
            )
    elif gain > 0:
        said = (
            f"The latents of a mixture show no separation of {images}: a gain of "
            f"{gain:+.2f} is no more than networks may have that learned nothing"
        )
    else:
        said = (
            f"The latents of a mixture hold no more of {images} than their sum (gain "
            f"{gain:+.2f})"
        )
    others = other_gains(numbers)
    yield (
        f"{said}, where pure superposition has 0" + "".join(f"; {x}" for x in others) + "."
    )
    if len(own) > 2:
        shares = [f"{_percent(x)} ({_percent(y)})" for x, y in zip(own, null, strict=True)]
        yield (
            "A linear map of the latents explains of the teacher's latents of each image "
            f"alone (superposition in brackets): {_listed(numbers, shares)}."
        )
        return
    yield (
        f"A linear map of the latents explains {_percent(own[0])} of the teacher's latents "
        f"of the subordinate image alone (superposition: {_percent(null[0])}) and "
        f"{_percent(own[1])} of the dominant one's ({_percent(null[1])})."
    )
    cross = _both(numbers, "separability/{}/cross_r2")
    if cross:
        more = "more" if cross[0] > own[0] else "less"
        yield (
            f"The subordinate branch also explains {_percent(cross[0])} of the dominant "
            f"image, {more} than of its own, and the dominant branch {_percent(cross[1])} "
            "of the subordinate one. A branch that kept to its own would explain none."
        )


def told_apart(numbers: Numbers) -> Iterator[str]:
    """Assignment accuracy beside that of raw pixels and random weights."""
    found = numbers.get("separability/assignment_accuracy")
    nulls = {
        label: numbers.get(f"separability/baselines/{row}/assignment_accuracy")
        for label, row in (("raw pixels", "raw_pixels"), ("untrained", "random"))
    }
    known = {label: value for label, value in nulls.items() if value is not None}
    if found is None or len(known) < len(nulls):
        return
    beside = ", ".join(f"{label}: {_percent(value)}" for label, value in known.items())
    said = "the two latents are nearer to their own images' than exchanged"
    if len(branches_of(numbers)) > 2:
        said = "the latents are nearer to their own images' than in any other order"
    yield f"In {_percent(found)} of the mixtures {said} ({beside})."


def reconstructed(numbers: Numbers) -> Iterator[str]:
    """Reconstruction errors."""
    found = _all(numbers, "reconstruction/{}/ratio")
    if found and len(found) > 2:
        ratios = [f"{ratio:.2f} times" for ratio in found]
        yield (
            "On patches it did not see, the reconstructed images have, of the error of the "
            f"mean training image: {_listed(numbers, ratios)}."
        )
    elif found:
        yield (
            "On patches it did not see, the reconstructed subordinate image has "
            f"{found[0]:.2f} times the error of the mean training image, the dominant one "
            f"{found[1]:.2f} times."
        )


def named(numbers: Numbers) -> Iterator[str]:
    """Accuracy of class probes on the own and the other branch."""
    own = _both(numbers, "semantics/{}/accuracy")
    alone = _both(numbers, "semantics/teacher_on_image/{}/accuracy")
    if not (own and alone):
        return
    text = (
        f"A linear probe names the class of {_percent(own[0])} of the subordinate images "
        f"from their branch's latents, and of {_percent(own[1])} of the dominant ones"
    )
    other = _both(numbers, "semantics/{}/other_branch_accuracy")
    if other:
        text += f"; from the other branch's, {_percent(other[0])} and {_percent(other[1])}"
    yield (
        f"{text}; from the teacher's latents of each image alone, {_percent(alone[0])} and "
        f"{_percent(alone[1])}."
    )


def recognised(numbers: Numbers) -> Iterator[str]:
    """Accuracy of a classifier on reconstructions."""
    found = _both(numbers, "recognition/{}/accuracy")
    best = _both(numbers, "recognition/baselines/mixture_classifier/{}/accuracy")
    if found and best:
        yield (
            "A classifier of clean images reads the right class from "
            f"{_percent(found[0])} of the reconstructed subordinate and "
            f"{_percent(found[1])} of the dominant images "
            f"({_percent(numbers['recognition/clean_accuracy'])} of the images "
            f"themselves). One trained on mixtures reads {_percent(best[0])} and "
            f"{_percent(best[1])} from the mixture."
        )


def probed(numbers: Numbers) -> Iterator[str]:
    """Accuracy of the linear probe, with raw pixels and random weights."""
    own, *others = (
        numbers.get(f"probes/{row}accuracy")
        for row in (
            "linear/class_token/",
            "baselines/random/linear/class_token/",
            "baselines/raw_pixels/linear/",
        )
    )
    if own is None or others[0] is None:
        return
    text = (
        f"A linear probe of the encoder names the class of {_percent(own)} of whole "
        f"images; of an untrained encoder {_percent(others[0])}"
    )
    text += "." if others[1] is None else f", of raw pixels {_percent(others[1])}."
    if max(other for other in others if other is not None) >= own:
        text += " No more than that: on these images a probe proves nothing."
    yield text
