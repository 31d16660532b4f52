"""Pruned checkpoints in other formats: the plugins that write them, and the ones that come with the core."""
