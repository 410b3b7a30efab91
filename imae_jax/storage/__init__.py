"""Runs on disk: checkpoints, run folders, metrics and atomic writes."""
