"""Exact selection: the k-th largest of many tensors, on one machine or over ranks."""
