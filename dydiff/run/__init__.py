"""One run on disk: its settings, its folder, its loggers, and the pretrained models that it needs."""
