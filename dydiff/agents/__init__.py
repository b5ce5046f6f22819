"""Offline agents, each a LightningModule; none knows how synthetic data are made."""

from dydiff.agents.base import Agent
from dydiff.agents.cql import CQL
from dydiff.agents.diffql import DiffQL
from dydiff.agents.td3bc import TD3BC

__all__ = ["CQL", "TD3BC", "Agent", "DiffQL"]
