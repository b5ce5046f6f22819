"""The episodes that score an agent, played while it waits or beside its training."""

import copy
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dydiff.data.tasks import Task
from dydiff.envs import make_env
from dydiff.envs.play import play_episodes

if TYPE_CHECKING:
    from dydiff.agents.base import Agent


class Evaluation:
    """Episodes with the policy that the agent has now.

    Args:
        agent: The agent.
        task: Where it plays.
        seeds: Of the episodes; on several ranks, of this rank's share.
        beside: Play them on the CPU with a copy of the agent, in a thread; otherwise at once, where the agent is.

    Attributes:
        num_updates: Of the agent so far.
        seconds: For which the training has waited.
    """

    def __init__(self, agent: "Agent", task: Task, seeds: Sequence[int], beside: bool = False) -> None:
        begin = time.perf_counter()
        self.num_updates = int(agent.num_updates)
        self._played: Future[tuple[Tensor, Tensor]] = Future()
        if not seeds:
            self._played.set_result((torch.zeros(0), torch.zeros(0, dtype=torch.int64)))
        elif beside:
            self._played = ThreadPoolExecutor(1).submit(_play, _copy_on_cpu(agent), task, seeds)
        else:
            self._played.set_result(_play(agent, task, seeds))
        self.seconds = time.perf_counter() - begin

    def episodes(self) -> tuple[Tensor, Tensor]:
        """Returns and lengths of the episodes; waits for those that are still played."""
        begin = time.perf_counter()
        episodes = self._played.result()
        self.seconds += time.perf_counter() - begin
        return episodes


def _play(agent: "Agent", task: Task, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(agent.device).manual_seed(seeds[0])  # an evaluation leaves the training as it was
    policy = agent.policy(agent.sample_eval_actions, generator)
    return play_episodes(policy, partial(make_env, task), seeds, agent.device)


def _copy_on_cpu(agent: "Agent") -> "Agent":
    return copy.deepcopy(agent, {id(agent.minimizers): None}).cpu()  # who only acts needs no optimizers
