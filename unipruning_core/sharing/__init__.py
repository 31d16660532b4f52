"""A pruned checkpoint shown to others: figures in its card, and its way to the hub."""
