"""After pruning: masks held while a model is trained, and what a tuned folder keeps of them."""
