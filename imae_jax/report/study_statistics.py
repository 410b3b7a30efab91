"""Statistics of a study: paired differences, intervals and rank correlation.

`study` is the content of a `study.json`. Differences are paired by seed, with a 95 %
interval (Student's t).
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

# Confidence of all intervals.
CONFIDENCE = 0.95
# Fewest arms whose bootstrap calls chance a relation in some 5 % of cases.
MIN_ARMS = 6


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Returns `mean`, `sd` (sample std with n - 1; None for one value) and `n`."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def differences(study: Mapping, arm: str, column: str) -> list[float]:
    """Differences of an arm's values to the first arm's, for the seeds that both have."""
    first = next(iter(study["rows"].values()))["values"][column]
    own = study["rows"][arm]["values"][column]
    return [value - first[seed] for seed, value in own.items() if seed in first]


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the mean's 95 % interval by Student's t; None for one value."""
    sd = summary(values)["sd"]
    if sd is None:
        return None
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(quantile * sd / math.sqrt(len(values)))


def points(study: Mapping, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns each arm's means over seeds of two columns, where it has both."""
    found = {}
    for arm, row in study["rows"].items():
        values = [list(row["values"][name].values()) for name in names]
        if all(values):
            x, y = map(statistics.fmean, values)
            found[arm] = x, y
    return found


def correlate(study: Mapping, names: Sequence[str]) -> dict | None:
    """Returns the rank correlation of two columns over arms, if there is one.

    None for fewer than `MIN_ARMS`, and where a column is the same in all of them.

    Returns:
      `columns`, `n` arms, Spearman's `rho`, and `low` and `high`, the 95 % interval of
      10,000 bootstrap samples of the arms (those of one point alone are left out).
    """
    found = np.array(list(points(study, names).values()))
    if len(found) < MIN_ARMS or not np.ptp(found, axis=0).all():
        return None
    random = np.random.default_rng(0)
    drawn = found[random.integers(len(found), size=(10_000, len(found)))]
    drawn = drawn[(np.ptp(drawn, axis=1) > 0).all(axis=1)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(_spearman(drawn), [tail, 100 - tail])
    return {
        "columns": list(names),
        "n": len(found),
        "rho": float(_spearman(found)),
        "low": float(low),
        "high": float(high),
    }


def _spearman(pairs: np.ndarray) -> np.ndarray:
    """Returns Spearman's rank correlation of [..., N, 2], ties sharing their mean rank."""
    ranks = stats.rankdata(pairs, axis=-2)
    x, y = np.moveaxis(ranks - ranks.mean(axis=-2, keepdims=True), -1, 0)
    return (x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
