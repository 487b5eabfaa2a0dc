"""Training: one loop for supernets, single networks and fine-tuning; augmentation, evaluation, weights on disk."""
