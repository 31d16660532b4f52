"""Benchmarks of a backend's operations, each verified before it is timed."""
