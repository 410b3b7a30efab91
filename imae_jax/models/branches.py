"""Names along axis S: the images of a mixture, by rising weight."""

# Numbers of images that a mixture may have, and the usual one: images are fed in pairs.
NUM_SOURCES = (2, 3, 4)
PAIR = NUM_SOURCES[0]


def branch_names(count: int) -> tuple[str, ...]:
    """Returns the names of `count` branches, by rising weight of their images.

    ("subordinate", "dominant") of two, as in the paper; of three, ("subordinate",
    "middle_1", "dominant"), and so on (ours). ("subordinate",) of one, that of a model that
    reconstructs the weakest image alone.
    """
    middle = (f"middle_{number}" for number in range(1, count - 1))
    return ("subordinate", *middle, "dominant")[:count]
