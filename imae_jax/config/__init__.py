"""Configs of runs: rules for single keys, and checks that keys fit each other."""
