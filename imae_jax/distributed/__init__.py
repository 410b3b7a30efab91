"""Sharding over devices, and multi-process runs."""
