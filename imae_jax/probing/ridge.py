"""Ridge regression on streams of tokens, in float64 on the host."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from imae_jax.errors import UserError
from imae_jax.probing.arrays import as_strengths, as_text

# Ridge strengths, relative to the inputs' mean variance; one is chosen on validation.
RIDGES = tuple(10.0**power for power in range(-8, 2))


@dataclasses.dataclass
class Moments:
    """Sums over tokens, sufficient for a least-squares fit and its score.

    Attributes:
      count: [positions] number of tokens at each position.
      z, h: [positions, D] and [positions, E] sums of inputs and targets.
      zz, zh: [D, D] and [D, E] sums of products.
      hh: [E] sum of squared targets.
    """

    count: np.ndarray
    z: np.ndarray
    h: np.ndarray
    zz: np.ndarray
    zh: np.ndarray
    hh: np.ndarray

    @classmethod
    def zeros(cls, positions: int, inputs: int, outputs: int) -> "Moments":
        """Returns moments of no tokens."""
        shapes = (
            (positions,),
            (positions, inputs),
            (positions, outputs),
            (inputs, inputs),
            (inputs, outputs),
            (outputs,),
        )
        return cls(*(np.zeros(shape) for shape in shapes))

    @classmethod
    def of(cls, z: np.ndarray, h: np.ndarray) -> "Moments":
        """Returns the moments of z [N, D] and h [N, E], all at one position.

        Raises:
          UserError: see `add`.
        """
        z, h = np.asarray(z), np.asarray(h)
        for name, array in (("z", z), ("h", h)):
            if array.ndim != 2:
                raise UserError(
                    f"{name} is {as_text(array)}; it must be 2-D, a row a token"
                )
        moments = cls.zeros(1, z.shape[1], h.shape[1])
        moments.add(z, h, np.zeros(len(z), int))
        return moments

    def add(self, z: np.ndarray, h: np.ndarray, position: np.ndarray) -> None:
        """Adds tokens: z [N, D], h [N, E], position [N] int.

        NaN and inf are accepted here; `fit` and `AffineMap.score` raise for them.

        Raises:
          UserError: for wrong shapes or types, and positions out of range.
        """
        z, h, position = map(np.asarray, (z, h, position))
        for name, array, columns in (("z", z, len(self.zz)), ("h", h, len(self.hh))):
            is_fit = array.ndim == 2 and array.shape == (len(z), columns)
            if not is_fit or array.dtype.kind in "cOSUTMm":
                raise UserError(
                    f"{name} is {as_text(array)}; it must hold real numbers [N, {columns}]"
                    f", as many rows as z, {len(z) if z.ndim else 0}"
                )
        check_positions(position, len(z), len(self.count))
        z, h = z.astype(np.float64), h.astype(np.float64)
        at_position = (position == np.arange(len(self.count))[:, None]).astype(np.float64)
        self.count += at_position.sum(axis=1)
        self.z += at_position @ z
        self.h += at_position @ h
        with np.errstate(invalid="ignore"):  # `fit` checks for finite values
            self.zz += z.T @ z
            self.zh += z.T @ h
        self.hh += np.square(h).sum(axis=0)

    def __add__(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets of tokens."""
        fields = (field.name for field in dataclasses.fields(self))
        return Moments(*(getattr(self, name) + getattr(other, name) for name in fields))

    def pooled(self) -> "Moments":
        """Returns the moments of the same tokens with all positions merged."""
        return dataclasses.replace(
            self,
            count=self.count.sum(keepdims=True),
            z=self.z.sum(axis=0, keepdims=True),
            h=self.h.sum(axis=0, keepdims=True),
        )

    def targets(self, columns: slice) -> "Moments":
        """Returns the moments of the same tokens with a subset of target channels."""
        return dataclasses.replace(
            self, h=self.h[:, columns], zh=self.zh[:, columns], hh=self.hh[columns]
        )

    def centred(self, mean_z: np.ndarray, mean_h: np.ndarray) -> "Moments":
        """Returns the moments of z - mean_z and h - mean_h, with means by position."""
        n = self.count[:, None]

        def cross(
            sum_a: np.ndarray, mean_a: np.ndarray, sum_b: np.ndarray, mean_b: np.ndarray
        ) -> np.ndarray:
            return sum_a.T @ mean_b + mean_a.T @ sum_b - (n * mean_a).T @ mean_b

        return Moments(
            count=self.count,
            z=self.z - n * mean_z,
            h=self.h - n * mean_h,
            zz=self.zz - cross(self.z, mean_z, self.z, mean_z),
            zh=self.zh - cross(self.z, mean_z, self.h, mean_h),
            hh=self.hh - (2 * self.h * mean_h - n * mean_h**2).sum(axis=0),
        )

    def position_means(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the means by position: [positions, D] and [positions, E]."""
        n = np.maximum(self.count, 1)[:, None]
        return self.z / n, self.h / n

    def check_finite(self, what: str) -> None:
        """Raises UserError if an input or a target was NaN or inf."""
        if not (np.isfinite(self.zz).all() and np.isfinite(self.hh).all()):
            raise UserError(f"{what}: features or targets are not finite (NaN or inf)")

    def variance(self) -> float:
        """Returns the mean squared target over tokens and channels."""
        return float(self.hh.sum() / (self.count.sum() * self.hh.size))

    def error(self, weights: np.ndarray) -> float:
        """Returns the mean of (z W - h)^2 over tokens and channels."""
        explained = 2 * np.vdot(weights, self.zh)
        total = np.vdot(weights, self.zz @ weights) - explained + self.hh.sum()
        return float(total / (self.count.sum() * self.hh.size))


def check_positions(position: np.ndarray, count: int, num_positions: int) -> None:
    """Raises UserError unless positions are [count] int in 0 .. num_positions - 1."""
    if position.shape != (count,) or position.dtype.kind not in "ui":
        raise UserError(f"position is {as_text(position)}; it must be [{count}] int")
    if count and not 0 <= position.min() <= position.max() < num_positions:
        raise UserError(f"position must hold integers from 0 to {num_positions - 1}")


def check_seen(moments: Moments, seen: np.ndarray, what: str) -> None:
    """Raises UserError for tokens at positions that were not seen, which have no means."""
    unseen = np.count_nonzero((moments.count > 0) & ~seen)
    if unseen:
        raise UserError(
            f"{what}: tokens at {unseen} of {len(seen)} positions are in none of the "
            "images that it is fitted on: more of these are needed"
        )


def solve_ridge(
    moments: Moments, ridges: Sequence[float], floor: float
) -> dict[float, np.ndarray]:
    """Returns, by ridge, the W [D, E] that minimizes ||z W - h||^2 + penalty ||W||^2.

    The penalty is the ridge times the mean over channels of z's squared norm, at least
    `floor`.
    """
    values, vectors = np.linalg.eigh(moments.zz)
    projected = vectors.T @ moments.zh
    penalties = {ridge: max(ridge * values.mean(), floor) for ridge in ridges}
    return {
        ridge: vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])
        for ridge, penalty in penalties.items()
    }


@dataclasses.dataclass(frozen=True)
class AffineMap:
    """The map h = (z - mean_z[position]) W + mean_h[position].

    Attributes:
      weights: W, [D, E].
      mean_z, mean_h: [positions, D] and [positions, E].
      ridge: strength used in the fit.
      seen: [positions] bool, where the fit had tokens, so that there are means.
    """

    weights: np.ndarray
    mean_z: np.ndarray
    mean_h: np.ndarray
    ridge: float
    seen: np.ndarray

    def __call__(self, z: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps [N, D] inputs at positions [N] to [N, E].

        Raises:
          UserError: for wrong shapes, and positions out of range.
        """
        z, position = np.asarray(z), np.asarray(position)
        if z.ndim != 2 or z.shape[1] != len(self.weights):
            raise UserError(f"z is {as_text(z)}; it must be [N, {len(self.weights)}]")
        check_positions(position, len(z), len(self.mean_z))
        return (z - self.mean_z[position]) @ self.weights + self.mean_h[position]

    def score(self, test: Moments) -> dict[str, float]:
        """Returns `mse`, and `r2` = 1 - mse / Var(h), with the variance about `mean_h`.

        Raises:
          UserError: if there are no tokens, or some at a position that the fit had none at;
            if the targets are constant; and for values that are not finite.
        """
        if not test.count.sum():
            raise UserError("the linear map: there are no test tokens")
        check_seen(test, self.seen, "the linear map")
        test.check_finite("the linear map")
        centred = test.centred(self.mean_z, self.mean_h)
        error, variance = centred.error(self.weights), centred.variance()
        if not variance > 1e-12 * test.variance():
            raise UserError("the targets do not vary: there is nothing to explain")
        return {"mse": error, "r2": 1 - error / variance}


def fit(
    train: Moments,
    validation: Moments,
    ridges: Sequence[float] = RIDGES,
    what: str = "the linear map",
) -> AffineMap:
    """Fits a map on `train`, with the ridge that is best on `validation`.

    There may be fewer tokens than inputs if every ridge is above 0.

    Args:
      ridges: strengths, relative to the inputs' mean variance, at least 0.
      what: name of the fit, for messages.
    Raises:
      UserError: for too few tokens, for validation tokens at positions that training lacks,
        for invalid strengths, and for values that are not finite.
    """
    ridges = as_strengths(ridges, "ridges", zero=True)
    count, width = int(train.count.sum()), len(train.zz)
    # Centring by position uses up one token per position.
    free = count - np.count_nonzero(train.count)
    if free < 1 or not validation.count.sum():
        raise UserError(
            f"{what}: {count} training and {int(validation.count.sum())} validation "
            f"tokens are too few for a fit of {width} inputs about the means of "
            f"{np.count_nonzero(train.count)} positions"
        )
    if free < width and min(ridges) == 0:
        raise UserError(
            f"{what}: invalid ridges={ridges}: 0 has no one answer for {width} "
            f"inputs and {count} training tokens; it must be above 0"
        )
    seen = train.count > 0
    check_seen(validation, seen, what)
    for moments in (train, validation):
        moments.check_finite(what)
    means = train.position_means()
    centred, held = train.centred(*means), validation.centred(*means)
    # A constant leaves rounding errors after centring, which must not be fitted.
    floor = 1e-12 * np.trace(train.zz) / width + np.finfo(np.float64).tiny
    maps = solve_ridge(centred, ridges, floor)
    ridge = min(maps, key=lambda ridge: held.error(maps[ridge]))
    return AffineMap(maps[ridge], *means, ridge, seen)
