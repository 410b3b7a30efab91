"""TFDS builders of data sets, one per file, listed in `registry`."""
