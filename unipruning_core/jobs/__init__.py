"""Complete jobs, from names to results."""
