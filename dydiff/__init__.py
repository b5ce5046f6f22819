"""DyDiff: on-policy data for offline reinforcement learning, made by dynamics diffusion."""

__version__ = "0.1.0"
