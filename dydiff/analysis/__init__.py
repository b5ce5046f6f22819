"""What the models and rollouts are worth, measured against the real environment."""
