"""Training: setup, step, loop, and trained runs on disk."""
