"""Make datasets in D4RL's layout where none can be downloaded."""
