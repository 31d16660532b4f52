"""Methods side by side in one resumable table, and SparseGPT to compare with."""
