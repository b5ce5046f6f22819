"""Runs the commands on a tiny run, and reads what they leave."""

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import QUIET

from dydiff.cli import main

TRANSITIONS = {"diffusion": "pretrain/transitions.yaml", "sampler": {"num_steps": 2}}


def fit(*options):
    return main(["fit", "--config", "run.yaml", *QUIET, *options])


def weights(version):
    return dict(torch.load(f"runs/run/version_{version}/checkpoints/last.ckpt", weights_only=True)["state_dict"])


def scalars(version, name="run"):
    events = EventAccumulator(f"runs/{name}/version_{version}")
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def pretrained():
    return {path.name.split("-")[0]: path for path in Path("runs/pretrained").glob("[!.]*")}
