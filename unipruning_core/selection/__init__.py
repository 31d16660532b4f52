"""Exact selection: the k-th largest value of many tensors, in one process or over ranks."""
