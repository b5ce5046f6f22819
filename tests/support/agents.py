"""The agents that every agent's tests are run with."""

import torch

from dydiff.agents import CQL, TD3BC, DiffQL

# A constructor for each agent and variant, and the settings with which it follows rewards rather than the data.
AGENTS = {
    "td3bc": (TD3BC, {"policy_delay": 1}, {"alpha": 50.0}),
    "td3bc-real": (TD3BC, {"policy_delay": 1, "clone_synthetic": False}, None),
    "cql": (CQL, {}, {"cql_weight": 0.05, "policy_lr": 1e-3}),
    "cql-lagrange": (CQL, {"target_action_gap": 1.0, "max_backup": True}, None),
    "cql-unweighted": (CQL, {"importance_sampling": False, "num_sampled_actions": 3}, None),
    "diffql": (DiffQL, {"ema_start": 0, "ema_every": 1}, {"q_coef": 20.0}),
    "diffql-recovered": (
        DiffQL,
        {"ema_start": 0, "ema_every": 1, "recovered_action": True, "critic_activation": "mish"},
        {"q_coef": 20.0},
    ),
    "diffql-max-q": (DiffQL, {"ema_start": 0, "ema_every": 1, "max_q_backup": True, "max_grad_norm": 1.0}, None),
}


def make(name, seed=0, obs_dim=4, act_dim=2, hidden_sizes=(16, 16), **options):
    torch.manual_seed(seed)
    agent_class, settings, _ = AGENTS[name]
    networks = ("policy_hidden_sizes", "critic_hidden_sizes") if agent_class is DiffQL else ("hidden_sizes",)
    return agent_class(obs_dim, act_dim, **dict.fromkeys(networks, hidden_sizes), **{**settings, **options})
