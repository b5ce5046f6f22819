"""What every agent must pass. A new agent adds one line to ``AGENTS`` of ``tests/support/agents.py``."""

import shutil
from copy import deepcopy

import pytest
import torch
from agents import AGENTS, DETERMINISTIC, NOT_RANDOM, WITHOUT_CRITICS, make

import dydiff.agents.optimization
from dydiff.agents.optimization import Minimizer, compiled
from dydiff.data.episodes import Batch
from dydiff.testing import check_agent, random_batches, train
from dydiff.utils.errors import UserError

every_agent = pytest.mark.parametrize("name", AGENTS)
every_critic = pytest.mark.parametrize("name", [name for name in AGENTS if name not in WITHOUT_CRITICS])


def online_and_target(agent):
    """Pairs of an online network's prefix and its target's."""
    names = {name.split(".")[0] for name, _ in agent.named_children()}
    return [(name.split("_", 1)[1], name) for name in names if name.startswith(("target_", "ema_"))]


def of(state, prefix):
    return {key.removeprefix(prefix + "."): value for key, value in state.items() if key.startswith(prefix + ".")}


@every_agent
def test_the_contract(name):
    check_agent(lambda obs_dim, act_dim: make(name, int(torch.initial_seed()), obs_dim, act_dim))


@every_agent
def test_an_update_changes_what_it_must_and_nothing_else(name):
    agent, batches = make(name), random_batches(1)
    before, given = deepcopy(agent.state_dict()), deepcopy(batches)
    train(agent, batches)
    after = agent.state_dict()
    pairs = online_and_target(agent)
    assert any(target.startswith("target_critics") for _, target in pairs) == (name not in WITHOUT_CRITICS)
    for online, target in pairs:
        assert any(not torch.equal(of(before, online)[key], value) for key, value in of(after, online).items())
        share = 1 - agent.ema_decay if target.startswith("ema_") else agent.tau
        for key, value in of(after, target).items():  # the target follows the new weights by exactly that share
            torch.testing.assert_close(value, torch.lerp(of(before, target)[key], of(after, online)[key], share))
    assert agent.num_updates == 1
    assert torch.equal(after["normalizer.shift"], torch.zeros(4))
    for ours, theirs in zip(batches, given, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0, equal_nan=True)


@every_agent
def test_the_seed_decides_the_weights(name):
    batches, agents = random_batches(5), [make(name) for _ in range(3)]
    for agent, seed in zip(agents, (7, 7, 8), strict=True):
        torch.manual_seed(seed)
        train(agent, batches)
    first, again, other = (torch.cat([value.flatten() for value in agent.parameters()]) for agent in agents)
    assert torch.equal(first, again) and torch.equal(first, other) == (name in NOT_RANDOM)


@every_agent
def test_a_training_that_diverges_is_stopped(name):
    batches = random_batches(3)
    loss, target = ("cloning_loss", batches.act) if name in WITHOUT_CRITICS else ("critic_loss", batches.reward)
    target[1] = 1e30  # its square is not finite in float32
    agent = make(name)
    with pytest.raises(UserError, match=rf"train/{loss} is inf after 2 updates: the training has diverged"):
        train(agent, batches)


@every_agent
def test_rescaled_observations_give_the_same_policy(name):
    """The normalizer is fitted to the data, so units of measurement cannot matter; not after training either."""
    batches = random_batches(10)
    acts = []
    for scale, shift in ((1000.0, 0.0), (64_000.0, -700.0)):
        agent = make(name)
        rescaled = batches._replace(obs=batches.obs * scale + shift, next_obs=batches.next_obs * scale + shift)
        torch.manual_seed(5)
        train(agent, rescaled, 5, normalized_by=rescaled.obs.flatten(0, 1))
        acts.append(agent.act(rescaled.obs[0]))
    torch.testing.assert_close(*acts, atol=2e-3, rtol=0)


@every_agent
def test_sampled_actions_come_from_the_generator_alone(name):
    agent, obs = make(name), torch.randn(200, 4)
    state = torch.get_rng_state()
    first, again, other = (agent.act(obs, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, other) == (name in DETERMINISTIC)


@every_critic
def test_no_value_follows_a_terminal_step(name):
    agent, batch = make(name), random_batches(1, size=64).at(0)
    for parameter in agent.parameters():
        parameter.data.normal_(0, 0.3)  # some begin with values near 0 everywhere
    losses = []
    for terminal, far in ((True, 0.0), (True, 100.0), (False, 0.0), (False, 100.0)):
        torch.manual_seed(0)
        flags = torch.full_like(batch.terminal, terminal)
        metrics = agent.critic_loss(batch._replace(terminal=flags, next_obs=batch.next_obs + far))[-1]
        losses.append(metrics["critic_loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[2] != pytest.approx(losses[3], rel=1e-3)


@every_agent
def test_log_prob_rises_towards_the_policys_action(name):
    """What guided synthesizers follow: a step along the gradient makes the action likelier."""
    agent, obs = make(name), torch.randn(30, 4)
    act = (torch.rand(30, 2) * 1.6 - 0.8).requires_grad_()
    before = agent.log_prob(obs, act)
    assert before.shape == (30,)
    (gradient,) = torch.autograd.grad(before.sum(), act)
    assert (agent.log_prob(obs, act + 1e-3 * gradient / gradient.norm(dim=1, keepdim=True)) > before).all()


@pytest.mark.parametrize("name", [name for name, (_, _, greedy) in AGENTS.items() if greedy])
def test_learns_the_best_action_of_a_known_problem(name):
    """Reward -(a - s)^2 for the state's first number s in [-0.6, 0.6]; the data's actions are uniform."""
    updates, size = 900, 64
    agent = make(name, act_dim=1, obs_dim=2, hidden_sizes=(64, 64), gamma=0.0, **AGENTS[name][2])
    obs = torch.rand(updates, size, 2) * 1.2 - 0.6
    act = torch.rand(updates, size, 1) * 2 - 1
    reward = -(act[..., 0] - obs[..., 0]).square()
    train(agent, Batch(obs, act, reward, obs, *torch.ones(2, updates, size).bool(), act), 50)
    grid = torch.stack([torch.linspace(-0.5, 0.5, 21), torch.zeros(21)], dim=1)
    assert (agent.act(grid)[:, 0] - grid[:, 0]).abs().mean() < 0.15


def compile_by(agent, backend):
    """``None`` does not compile."""
    agent.compile_updates, agent.compile_backend = backend is not None, backend or "inductor"


def _trained(name, backend):
    agent, batches = make(name, ema_start=2) if name.startswith("diffql") else make(name), random_batches(6)
    compile_by(agent, backend)
    torch.manual_seed(1)
    logged = train(agent, batches, updates_per_step=3)
    return agent, logged


def _agree(agent, logged, other, logged_by_other):
    for key, value in agent.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, atol=1e-5, rtol=1e-4, msg=key)
    for mine, its in zip(agent.minimizers, other.minimizers, strict=True):
        ours, theirs = mine.optimizer.state_dict()["state"], its.optimizer.state_dict()["state"]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    for ours, theirs in zip(logged, logged_by_other, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@every_agent
def test_updates_traced_as_a_whole_equal_the_plain_ones(name, caplog):
    caplog.set_level("INFO")
    traced, plain = _trained(name, "aot_eager"), _trained(name, None)
    assert "Compiled in" in caplog.text and "uncompiled" not in caplog.text
    _agree(*traced, *plain)


def test_compiled_updates_equal_the_plain_ones(caplog):
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    caplog.set_level("INFO")
    fast, plain = _trained("td3bc", "inductor"), _trained("td3bc", None)
    assert "Compiled in" in caplog.text
    _agree(*fast, *plain)


def test_updates_that_are_recorded_and_replayed_equal_the_plain_ones(monkeypatch):
    """What CUDA graphs need of the updates; here, without a GPU, nothing is recorded."""
    monkeypatch.setattr(dydiff.agents.optimization, "compiled", lambda *args: compiled(*args[:3], cuda_graphs=True))
    recorded, plain = _trained("td3bc", "aot_eager"), _trained("td3bc", None)
    _agree(*recorded, *plain)


@pytest.mark.parametrize("backend", ["aot_eager", None])
def test_a_learning_rate_that_falls_to_nothing_stops_the_updates(backend, caplog):
    caplog.set_level("INFO")
    agent, after = make("td3bc"), []  # the weights when each of three steps begins
    compile_by(agent, backend)

    def slow_down(batch, batch_idx):
        after.append(next(agent.actor.parameters()).detach().clone())
        for minimizer in agent.minimizers:
            minimizer.optimizer.param_groups[0]["lr"] *= float(batch_idx == 0)

    agent.on_train_batch_start = slow_down
    train(agent, random_batches(6), updates_per_step=2)
    assert not torch.equal(after[1], after[0])
    assert torch.equal(after[2], after[1])
    assert ("Compiled in" in caplog.text) is (backend is not None)


def test_an_optimizer_of_two_groups_steps_both():
    agent = make("td3bc")
    first, *rest = agent.actor.parameters()
    groups = [{"params": [first]}, {"params": rest, "lr": 0.0}]
    agent.configure_optimizers = lambda: [
        torch.optim.Adam(groups, lr=1e-3),
        torch.optim.Adam(agent.critics.parameters()),
    ]
    begun = [parameter.detach().clone() for parameter in agent.actor.parameters()]
    train(agent, random_batches(4))
    moved = [not torch.equal(now, then) for now, then in zip(agent.actor.parameters(), begun, strict=True)]
    assert moved == [True] + [False] * len(rest)


def test_a_gradient_is_followed_whatever_its_layout_in_memory():
    """A transposed weight has a transposed gradient; a fused Adam reads its numbers in the order of the memory."""
    weights = [torch.nn.Parameter(torch.ones(3, 4, 5)) for _ in range(2)]
    x = torch.randn(3, 7, 5)
    fused = torch.optim.Adam(weights[:1], 0.1, fused=True)
    plain = torch.optim.Adam(weights[1:], 0.1, fused=False)
    Minimizer(fused)((x @ weights[0].mT).square().sum())
    (x @ weights[1].mT).square().sum().backward()
    plain.step()
    torch.testing.assert_close(
        *(optimizer.state[weight]["exp_avg"] for optimizer, weight in zip((fused, plain), weights, strict=True))
    )


def test_what_cannot_be_compiled_runs_as_it_is(caplog):
    caplog.set_level("INFO")
    broken, plain = _trained("td3bc", "nonesuch"), _trained("td3bc", None)
    assert "The updates run uncompiled:" in caplog.text
    _agree(*broken, *plain)
    decaying = make("td3bc")
    compile_by(decaying, "aot_eager")
    parts = (decaying.actor, decaying.critics)
    decaying.configure_optimizers = lambda: [torch.optim.AdamW(part.parameters()) for part in parts]
    train(decaying, random_batches(2))
    assert "an optimizer is not a plain Adam" in caplog.text
