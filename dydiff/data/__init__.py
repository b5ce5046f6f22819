"""Datasets, tasks and batches. Nothing here knows about models."""

from dydiff.data.best import BestEpisodes
from dydiff.data.d4rl import D4RLSource
from dydiff.data.datamodules import TransitionDataModule, WindowDataModule
from dydiff.data.episodes import Batch, Episodes, Trajectories, Transitions, Windows
from dydiff.data.local import LocalSource
from dydiff.data.minari import MinariSource
from dydiff.data.mixed import MixedDataModule
from dydiff.data.source import EpisodeSource
from dydiff.data.split import SplitSource
from dydiff.data.tasks import Task
from dydiff.data.termination import TerminationRule, never

__all__ = [
    "Batch",
    "BestEpisodes",
    "D4RLSource",
    "EpisodeSource",
    "Episodes",
    "LocalSource",
    "MinariSource",
    "MixedDataModule",
    "SplitSource",
    "Task",
    "TerminationRule",
    "Trajectories",
    "TransitionDataModule",
    "Transitions",
    "WindowDataModule",
    "Windows",
    "never",
]
