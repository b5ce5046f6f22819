"""Datasets, tasks and batches. Nothing here knows about models."""
