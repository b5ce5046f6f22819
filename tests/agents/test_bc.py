"""BC, and the data of 10% BC."""

from copy import deepcopy

import pytest
import torch

from dydiff.agents.bc import BC
from dydiff.data.best import BestEpisodes
from dydiff.data.local import LocalSource
from dydiff.testing.training import random_batches, train
from dydiff.utils.errors import UserError


def test_it_clones_a_policy_that_its_actor_can_be():
    """Actions of another actor of the same size: the error falls to nothing; rewards and next states do not matter."""
    torch.manual_seed(0)
    teacher, agent = BC(4, 2, (8,)), BC(4, 2, (32, 32), lr=3e-3)
    batches = random_batches(1500, size=64)
    batches = batches._replace(act=teacher.act(batches.obs).detach())
    logged = train(agent, batches, updates_per_step=50)
    assert logged[0]["train/cloning_loss"] > 20 * logged[-1]["train/cloning_loss"]
    other = BC(4, 2, (32, 32))
    obs = torch.randn(100, 4)
    error, chance = ((each.act(obs) - teacher.act(obs)).square().mean() for each in (agent, other))
    assert error < 0.05 * chance


def test_its_loss_is_the_mean_squared_error_over_all_transitions():
    agent, batches = BC(4, 2, (8,)), random_batches(1)
    begun = deepcopy(agent.actor)
    logged = train(agent, batches)[0]["train/cloning_loss"]
    error = begun(agent.normalizer(batches.obs[0])).detach() - batches.act[0]
    assert logged == pytest.approx(float(error.square().sum()) / (32 * 2), rel=1e-5)


def test_the_best_episodes_are_those_of_the_largest_returns(write_dataset):
    whole = LocalSource(path=str(write_dataset([7] * 40)))
    best = BestEpisodes(whole, fraction=0.1)
    every, chosen = whole.load(), best.load()
    limit = every.returns.sort().values[-4]
    assert len(chosen.lengths) == 4 and (chosen.returns >= limit).all()
    kept = (every.returns >= limit).nonzero().flatten()
    assert torch.equal(chosen.transitions.obs, every.select(kept).transitions.obs)  # in the dataset's order
    assert best.name == f"{whole.name}-best10pct" and best.task == whole.task
    assert len(BestEpisodes(whole, 0.001).load().lengths) == 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_beyond_its_bounds_is_refused(fraction, write_dataset):
    with pytest.raises(UserError, match=r"fraction must be in \(0, 1\)"):
        BestEpisodes(LocalSource(path=str(write_dataset())), fraction)
