"""Names of numbers in a sweep: `alpha_0.30/mask_0.50/subordinate/psnr`."""

import re

_PART = {
    "alpha": re.compile(r"alpha_([\d.]+)/"),
    "mask_ratio": re.compile(r"mask_([\d.]+)/"),
}


def at(*, alpha: float | None = None, mask_ratio: float | None = None) -> str:
    """The prefix of numbers measured at this alpha, mask ratio or both."""
    alpha_part = "" if alpha is None else f"alpha_{alpha:.2f}/"
    return alpha_part + ("" if mask_ratio is None else f"mask_{mask_ratio:.2f}/")


def where(name: str) -> dict[str, float]:
    """Reads `at` back from a name: {"alpha": 0.3}; empty if it is of no sweep."""
    found = {key: part.search(name) for key, part in _PART.items()}
    return {key: float(match[1]) for key, match in found.items() if match}
