"""Checks of a run's config: rules for single keys, and checks across keys."""
