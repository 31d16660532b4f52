"""Benchmarks of a backend's operations, each checked before it is timed."""
