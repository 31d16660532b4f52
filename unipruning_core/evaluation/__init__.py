"""Zero-shot tasks and perplexity of several checkpoints, in one table with the differences to the first."""
