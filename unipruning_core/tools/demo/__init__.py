"""The demonstration: a small pretrained model, before and after pruning."""
