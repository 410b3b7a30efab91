"""Ahead-of-time compilation: memory, FLOPs and traffic of steps on absent devices."""
