"""Runs on disk: checkpoints, run folders, metrics, atomic writes."""
