"""TD3BC against CORL's numbers."""

import pytest
import torch

from dydiff.agents.td3bc import TD3BC
from dydiff.data.episodes import Batch
from dydiff.testing.training import train


def golden_agent(golden):
    agent = TD3BC(5, 2, hidden_sizes=(16, 16), policy_noise=0.0)
    load_actor(agent.actor, golden, "init/actor")
    load_actor(agent.target_actor, golden, "init/actor")
    for member, name in enumerate(("init/critic_1", "init/critic_2")):
        for critics in (agent.critics, agent.target_critics):
            for layer, index in zip(critics.layers, (0, 2, 4), strict=True):
                layer.weight.data[member] = golden[f"{name}/{index}.weight"].T
                layer.bias.data[member, 0] = golden[f"{name}/{index}.bias"]
    # the golden states are used as they are
    agent.normalizer.set_standard = lambda *statistics: None
    columns = ("observations", "actions", "rewards", "next_observations", "terminals")
    obs, act, reward, next_obs, terminal = (golden[f"batch/{key}"] for key in columns)
    return agent, Batch(obs, act, reward, next_obs, terminal.bool(), torch.ones_like(reward).bool(), act)


def load_actor(actor, golden, name):
    for index in (0, 2, 4):
        actor[index].weight.data.copy_(golden[f"{name}/{index}.weight"])
        actor[index].bias.data.copy_(golden[f"{name}/{index}.bias"])


@pytest.mark.parametrize("updates_per_step", [1, 2, 6])
def test_six_updates_equal_corl(golden, updates_per_step):
    g = golden("td3bc")
    agent, batches = golden_agent(g)
    losses = train(agent, batches, updates_per_step)
    if updates_per_step == 1:
        critic = torch.tensor([step["train/critic_loss"] for step in losses])
        torch.testing.assert_close(critic, g["critic_loss"].float(), atol=1e-5, rtol=1e-5)
        actor = torch.tensor([losses[step]["train/actor_loss"] for step in (1, 3, 5)])
        torch.testing.assert_close(actor, g["actor_loss"].float()[[1, 3, 5]], atol=1e-5, rtol=1e-5)
    assert agent.num_updates == 6
    for actor, name in ((agent.actor, "actor"), (agent.target_actor, "actor_target")):
        for index in (0, 2, 4):
            torch.testing.assert_close(actor[index].weight, g[f"final/{name}/{index}.weight"], atol=1e-5, rtol=0)
            torch.testing.assert_close(actor[index].bias, g[f"final/{name}/{index}.bias"], atol=1e-5, rtol=0)
    for critics, suffix in ((agent.critics, ""), (agent.target_critics, "_target")):
        for member in (0, 1):
            for layer, index in zip(critics.layers, (0, 2, 4), strict=True):
                name = f"final/critic_{member + 1}{suffix}/{index}"
                torch.testing.assert_close(layer.weight[member].T, g[f"{name}.weight"], atol=1e-5, rtol=0)
                torch.testing.assert_close(layer.bias[member, 0], g[f"{name}.bias"], atol=1e-5, rtol=0)


def test_terminal_stops_the_bootstrap_and_timeout_does_not():
    agent = TD3BC(5, 2, policy_noise=0.0)
    ends = torch.ones(4).bool()
    act = torch.rand(4, 2)
    batch = Batch(torch.randn(4, 5), act, torch.randn(4), torch.randn(4, 5), ends, ends, act)
    q = agent.critics.q_values(batch.obs, batch.act)
    torch.testing.assert_close(agent.critic_loss(batch)[0], (q - batch.reward).square().mean(1).sum())
    alive = batch._replace(terminal=torch.zeros(4).bool())
    next_q = agent.target_critics.q_values(batch.next_obs, agent.target_actor(batch.next_obs)).min(0).values
    target = batch.reward + 0.99 * next_q
    torch.testing.assert_close(agent.critic_loss(alive)[0], (q - target).square().mean(1).sum())
