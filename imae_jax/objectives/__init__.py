"""Training objectives: mixing, distillation, losses, and the three kinds of run."""
