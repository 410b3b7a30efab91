"""Outlines of ten shapes as polygons, and their antialiased rasterization."""

import math

import numpy as np

# Sides of a polygon that approximates a circle, and points along other curves.
CURVE = 48
# Scan lines per row of pixels; along a line, coverage is exact.
SCAN_LINES = 8

# Order of each shape's rotational symmetry: a rotation is known modulo 2 pi / order. 0: the
# shape looks the same at any angle.
SYMMETRY = {
    "disc": 0,
    "square": 4,
    "triangle": 3,
    "cross": 4,
    "star": 5,
    "ring": 0,
    "heart": 1,
    "crescent": 1,
    "arrow": 1,
    "hourglass": 2,
}


def _arc(radius: float, start: float, end: float, points: int = CURVE) -> np.ndarray:
    angles = np.linspace(start, end, points)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _regular(radii: list[float]) -> np.ndarray:
    """Vertices at the given radii and equal angles, the first on the x axis."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _ring() -> np.ndarray:
    # One path: around, inwards, and back around the hole. The step inwards is walked both
    # ways and cancels.
    return np.concatenate([_arc(1, 0, 2 * np.pi), _arc(0.55, 2 * np.pi, 0)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, CURVE, endpoint=False)
    x = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return np.stack([x, 16 * np.sin(t) ** 3], axis=1)


def _crescent() -> np.ndarray:
    # A disc of radius 1 minus a disc around (bite, 0) that meets it at the horns.
    horn, bite = math.radians(50), 0.6
    x, y = math.cos(horn) - bite, math.sin(horn)
    inner = math.atan2(y, x)
    outside = _arc(1, horn, 2 * np.pi - horn)
    inside = _arc(math.hypot(x, y), 2 * np.pi - inner, inner)[1:-1]
    return np.concatenate([outside, inside + [bite, 0]])


def _cross() -> np.ndarray:
    arm = np.array([[3, -1], [3, 1], [1, 1]])
    quarter = np.array([[0, 1], [-1, 0]])  # turns row vectors from x towards y
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, i) for i in range(4)])


def _mirrored(half: list[tuple[float, float]]) -> np.ndarray:
    """Closes half an outline with its mirror image across the x axis."""
    points = np.array(half)
    return np.concatenate([points, points[::-1] * [1, -1]])


def signed_areas(vertices: np.ndarray) -> np.ndarray:
    """Signed area of the triangle of each side with the origin: [V, 2] -> [V]."""
    following = np.roll(vertices, -1, axis=0)
    return (vertices[:, 0] * following[:, 1] - vertices[:, 1] * following[:, 0]) / 2


def _normalized(vertices: np.ndarray) -> np.ndarray:
    """Moves the centroid to the origin and makes the area 1."""
    areas = signed_areas(vertices)
    thirds = (vertices + np.roll(vertices, -1, axis=0)) / 3
    centroid = (areas[:, None] * thirds).sum(axis=0) / areas.sum()
    return (vertices - centroid) / np.sqrt(abs(areas.sum()))


# [V, 2] (x, y) vertices of each class: area 1, centroid 0, symmetric about the x axis.
# Shapes with a direction point along x.
OUTLINES = {
    "disc": _regular([1] * CURVE),
    "square": _regular([1] * 4),
    "triangle": _regular([1] * 3),
    "cross": _cross(),
    "star": _regular([1, 0.42] * 5),
    "ring": _ring(),
    "heart": _heart(),
    "crescent": _crescent(),
    "arrow": _mirrored([(1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)]),
    "hourglass": _mirrored([(1, 0.85), (0, 0.15), (-1, 0.85)]),
}
OUTLINES = {name: _normalized(vertices) for name, vertices in OUTLINES.items()}


def placed(name: str, size: float, x: float, y: float, rotation: float) -> np.ndarray:
    """Places an outline in a picture: [V, 2] vertices in pixels.

    Args:
      name: name of the outline.
      size: square root of the area, in pixels.
      x, y: position of the centroid, in pixels from the left and upper border.
      rotation: angle in radians, from the x axis (right) towards the y axis (down).
    """
    cos, sin = math.cos(rotation), math.sin(rotation)
    return size * OUTLINES[name] @ np.array([[cos, sin], [-sin, cos]]) + [x, y]


def coverage(vertices: np.ndarray, side: int) -> np.ndarray:
    """Fraction of each pixel covered by a polygon: [side, side] in 0..1, rows from the top.

    A side that a scan line meets covers everything to its right; the opposite side, walked
    the other way, uncovers it again. So holes need no special case, and pixels depend
    continuously on the vertices.
    """
    lines = (np.arange(side * SCAN_LINES) + 0.5)[:, None] / SCAN_LINES
    (x, y), (next_x, next_y) = vertices.T, np.roll(vertices, -1, axis=0).T
    meets = (y <= lines).astype(int) - (next_y <= lines)  # [lines, V], 0 or the direction
    line, edge = np.nonzero(meets)
    slope = (next_x - x)[edge] / (next_y - y)[edge]
    crossing = x[edge] + (lines[line, 0] - y[edge]) * slope
    right = np.clip(np.arange(1, side + 1) - crossing[:, None], 0, 1)
    pixel = (line // SCAN_LINES)[:, None] * side + np.arange(side)
    covered = np.bincount(pixel.ravel(), (meets[line, edge, None] * right).ravel(), side**2)
    return np.abs(covered.reshape(side, side)) / SCAN_LINES
