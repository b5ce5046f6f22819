"""Synthesizers make trajectories of the learning policy; filters choose which of them to keep."""

from dydiff.rollout.autoregressive import Autoregressive
from dydiff.rollout.base import LearningPolicy, PlainPolicy, Synthesizer
from dydiff.rollout.dydiff import DyDiff
from dydiff.rollout.filters import Filter, Hardmax, Softmax
from dydiff.rollout.pgd import PGD
from dydiff.rollout.real import HeldBackData, RealEnvironment, RealRollouts, RealTransitions
from dydiff.rollout.synther import SynthER

__all__ = [
    "PGD",
    "Autoregressive",
    "DyDiff",
    "Filter",
    "Hardmax",
    "HeldBackData",
    "LearningPolicy",
    "PlainPolicy",
    "RealEnvironment",
    "RealRollouts",
    "RealTransitions",
    "Softmax",
    "SynthER",
    "Synthesizer",
]
