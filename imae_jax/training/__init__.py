"""Training: set-up, step, loop, and runs opened again."""
