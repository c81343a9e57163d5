"""Training: losses, dense chunks, the trainer, meta-learning, continual learning and hyperparameter search."""
