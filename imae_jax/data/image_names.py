"""Names of a data set's image files, which tell whether its splits are still the same."""

import hashlib
from collections.abc import Mapping
from pathlib import PurePath

from imae_jax.data.dataset import Dataset
from imae_jax.data.encoded_images import EncodedImages


def _names(dataset: Dataset) -> dict[str, list[str]]:
    """Returns the names of each split's files, below the data set's folder."""
    folder = str(dataset.path)
    return {
        split: [name.removeprefix(folder) for name in found.images.names]
        for split, found in dataset.splits.items()
        if isinstance(found.images, EncodedImages)
    }


def digests(dataset: Dataset) -> dict[str, str]:
    """Returns the SHA-256 of each split's names in order; empty for images in arrays."""
    return {
        split: hashlib.sha256(
            "\n".join(names).encode("utf-8", "surrogateescape")
        ).hexdigest()
        for split, names in _names(dataset).items()
    }


def is_set_aside(dataset: Dataset) -> bool:
    """True if held-out images were drawn from the folders of the training images.

    A file that is added to these, removed or renamed gives another draw.
    """
    found = {
        split: {str(PurePath(name).parent) for name in names}
        for split, names in _names(dataset).items()
    }
    train = found.pop("train", set())
    return any(train & folders for folders in found.values())


def is_drawn_anew(dataset: Dataset, known: Mapping[str, str]) -> bool:
    """True if a split that was set aside is not the one of `known` digests.

    Args:
      dataset: the data set as it is now.
      known: digests of a run; empty for runs of earlier versions, which lack them.
    """
    return bool(known) and is_set_aside(dataset) and digests(dataset) != dict(known)
