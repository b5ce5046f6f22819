"""The contracts as checks that users call in their own tests: each raises an AssertionError that says what is wrong."""

from dydiff.testing.agents import check_agent
from dydiff.testing.data import check_filter, check_source, check_synthesizer, random_trajectories
from dydiff.testing.training import random_batches, train

__all__ = [
    "check_agent",
    "check_filter",
    "check_source",
    "check_synthesizer",
    "random_batches",
    "random_trajectories",
    "train",
]
