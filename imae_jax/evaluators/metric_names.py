"""Names of numbers in a sweep, and what a name says of how its number was measured."""

import re
from collections.abc import Mapping

# Numbers of whole images, and of images alone under a mask.
NO_MASK = re.compile(
    r"probes/.*|representation/.*cka/.*|recognition/clean_accuracy"
    r"|quality/.*baselines/.*|semantics/chance|attributes/[^/]*/(chance|count)"
    r"|classification/.*"
)
NO_ALPHA = re.compile(
    NO_MASK.pattern.replace("quality/.*baselines/.*", "quality/baselines/train_mean/.*")
    + r"|(semantics|attributes)/teacher_on_image/.*|separability/position_only/.*"
    r"|representation/baselines/teacher_on_image/.*"
)


def at(*, alpha: float | None = None, mask_ratio: float | None = None) -> str:
    """The prefix of numbers measured at this alpha, mask ratio or both.

    Such as `alpha_0.30/mask_0.50/`.
    """
    alpha_part = "" if alpha is None else f"alpha_{alpha:.2f}/"
    return alpha_part + ("" if mask_ratio is None else f"mask_{mask_ratio:.2f}/")


def conditions(
    name: str, options: Mapping, mask_ratio: float | None
) -> dict[str, float | None]:
    """The `alpha` and `mask_ratio` of a number of eval.json; None where it has none.

    Args:
      name: such as `separability/alpha_0.30/subordinate/r2`.
      options: the evaluator's, whose exact weights and ratios count.
      mask_ratio: where the name gives no other.
    """
    alpha = options.get("alpha")
    for weight in options.get("alphas", ()):
        alpha = weight if f"/{at(alpha=weight)}" in name else alpha
    for ratio in options.get("mask_ratios", ()):
        mask_ratio = ratio if f"/{at(mask_ratio=ratio)}" in name else mask_ratio
    return {
        "alpha": None if NO_ALPHA.fullmatch(name) else alpha,
        "mask_ratio": None if NO_MASK.fullmatch(name) else mask_ratio,
    }


def count_of(name: str, numbers: Mapping[str, float], otherwise: int) -> int:
    """How many examples one of an evaluator's numbers is of.

    Args:
      name: such as `alpha_0.30/subordinate/colour/accuracy`.
      numbers: all by name; `colour/count` says it of this one, else `count` of all.
      otherwise: where neither is there.
    """
    group = name.split("/")[-2:-1]
    count = numbers.get("count", otherwise)
    return int(numbers.get("/".join([*group, "count"]), count))
