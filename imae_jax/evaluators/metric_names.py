"""Names of metrics in a sweep, and the number of examples behind a metric."""

from collections.abc import Mapping


def at(*, alpha: float | None = None, mask_ratio: float | None = None) -> str:
    """The prefix of numbers measured at this alpha, mask ratio or both.

    Such as `alpha_0.30/mask_0.50/`.
    """
    alpha_part = "" if alpha is None else f"alpha_{alpha:.2f}/"
    return alpha_part + ("" if mask_ratio is None else f"mask_{mask_ratio:.2f}/")


def count_of(name: str, numbers: Mapping[str, float], otherwise: int) -> int:
    """The number of examples behind one of an evaluator's metrics.

    Args:
      name: such as `alpha_0.30/subordinate/colour/accuracy`.
      numbers: all by name; `colour/count` says it of this one, else `count` of all.
      otherwise: where neither is there.
    """
    group = name.split("/")[-2:-1]
    count = numbers.get("count", otherwise)
    return int(numbers.get("/".join([*group, "count"]), count))
