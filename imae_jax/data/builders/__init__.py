"""Data sets that are prepared here: one builder per file, listed in `registry`."""
