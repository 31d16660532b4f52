"""The demonstration: a small pretrained model and two texts, before and after pruning."""
