"""What is learned from the dataset once and reused by every run: denoiser, dynamics and reward model."""
