"""Probes and similarity measures on arrays, for any encoder."""
