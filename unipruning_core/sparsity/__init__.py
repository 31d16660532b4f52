"""What can be asked for: unstructured, N:M, budgets and mixed patterns, with exact counts."""
