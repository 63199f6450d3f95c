"""Learning: losses, training and prediction."""
