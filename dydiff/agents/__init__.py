"""Offline agents, each a LightningModule; none knows how synthetic data are made."""

from dydiff.agents.base import Agent
from dydiff.agents.bc import BC
from dydiff.agents.cql import CQL
from dydiff.agents.diffql import DiffQL
from dydiff.agents.edac import EDAC
from dydiff.agents.iql import IQL
from dydiff.agents.rebrac import ReBRAC
from dydiff.agents.td3bc import TD3BC

__all__ = ["BC", "CQL", "EDAC", "IQL", "TD3BC", "Agent", "DiffQL", "ReBRAC"]
