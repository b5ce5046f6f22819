"""Offline agents, each a LightningModule that rolls out nothing and knows nothing of synthetic data."""
