"""Names of metrics in a sweep, and the number of examples behind a metric."""

from collections.abc import Mapping


def at(*, alpha: float | None = None, mask_ratio: float | None = None) -> str:
    """Returns the prefix of metrics at an alpha, a mask ratio or both.

    For example `alpha_0.30/mask_0.50/`.
    """
    alpha_part = "" if alpha is None else f"alpha_{alpha:.2f}/"
    return alpha_part + ("" if mask_ratio is None else f"mask_{mask_ratio:.2f}/")


def count_of(name: str, numbers: Mapping[str, float], otherwise: int) -> int:
    """Returns the number of examples behind a metric.

    Args:
      name: metric, such as `alpha_0.30/subordinate/colour/accuracy`.
      numbers: all metrics of the evaluator; read are `colour/count`, then `count`.
      otherwise: returned if neither exists.
    """
    group = name.split("/")[-2:-1]
    count = numbers.get("count", otherwise)
    return int(numbers.get("/".join([*group, "count"]), count))
