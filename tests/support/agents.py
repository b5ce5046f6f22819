"""The agents that every agent's tests are run with."""

import torch

from dydiff.agents import BC, CQL, EDAC, IQL, TD3BC, DiffQL, ReBRAC

# A constructor for each agent and variant, and the settings with which it follows rewards rather than the data.
AGENTS = {
    "bc": (BC, {}, None),
    "td3bc": (TD3BC, {"policy_delay": 1}, {"alpha": 50.0}),
    "td3bc-real": (TD3BC, {"policy_delay": 1, "clone_synthetic": False}, None),
    "rebrac": (ReBRAC, {"policy_delay": 1}, {"actor_penalty": 0.01}),
    "rebrac-real": (ReBRAC, {"policy_delay": 1, "clone_synthetic": False}, None),
    "iql": (IQL, {}, {"beta": 30.0, "reward_scale": 1.0, "lr": 3e-3}),
    "cql": (CQL, {}, {"cql_weight": 0.05, "policy_lr": 1e-3}),
    "cql-lagrange": (CQL, {"target_action_gap": 1.0, "max_backup": True}, None),
    "cql-unweighted": (CQL, {"importance_sampling": False, "num_sampled_actions": 3}, None),
    "edac": (EDAC, {"num_critics": 4}, {"lr": 1e-3}),
    "sac-n": (EDAC, {"num_critics": 3, "diversity_weight": 0.0}, None),
    "diffql": (DiffQL, {"ema_start": 0, "ema_every": 1}, {"q_coef": 20.0}),
    "diffql-recovered": (
        DiffQL,
        {"ema_start": 0, "ema_every": 1, "recovered_action": True, "critic_activation": "mish"},
        {"q_coef": 20.0},
    ),
    "diffql-max-q": (DiffQL, {"ema_start": 0, "ema_every": 1, "max_q_backup": True, "max_grad_norm": 1.0}, None),
}
WITHOUT_CRITICS = {"bc"}
DETERMINISTIC = {"bc", "td3bc", "td3bc-real", "rebrac", "rebrac-real"}  # their policies have nothing to draw
NOT_RANDOM = {"bc", "iql"}  # nor have their updates


def make(name, seed=0, obs_dim=4, act_dim=2, hidden_sizes=(16, 16), **options):
    torch.manual_seed(seed)
    agent_class, settings, _ = AGENTS[name]
    networks = ("policy_hidden_sizes", "critic_hidden_sizes") if agent_class is DiffQL else ("hidden_sizes",)
    return agent_class(obs_dim, act_dim, **dict.fromkeys(networks, hidden_sizes), **{**settings, **options})
