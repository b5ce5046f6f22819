"""The benchmarks measure what they say they do."""

import sys

import pytest
import torch
from conftest import ROOT

sys.path.append(str(ROOT))

from benchmarks.harness import MatrixProducts, measure
from benchmarks.threads import work


def test_the_floor_is_the_products_of_the_work():
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2))
    with MatrixProducts() as products:
        network(torch.randn(3, 5)).sum().backward()
    shapes = sorted(tuple(out.shape) for _, _, _, out in products.products)
    forward, weights, inputs = [(3, 7), (3, 2)], [(7, 5), (2, 7)], [(3, 7)]  # none for the first layer's input
    assert shapes == sorted(forward + weights + inputs)
    products.again()
    for _, one, other, out in products.products:
        torch.testing.assert_close(out, one @ other)


def test_ratios_are_those_of_the_medians(capsys):
    seconds = {"floor": iter([1.0] * 9), "slow": iter([9.0, 2.0, 2.0, 2.0, 50.0, 2.0, 2.0, 2.0, 2.0])}
    variants = {name: ((lambda times=times: next(times)), 10) for name, times in seconds.items()}
    floor, slow = measure("case", variants, rounds=8)
    assert (floor.per_second, slow.per_second) == (10, 5)
    assert slow.ratio_to_floor == pytest.approx(0.5) and slow.ratio_to_naive_lightning is None
    assert "0.50 of floor" in capsys.readouterr().out


def test_threads_are_measured_by_updates_per_second():
    speeds = work(threads=1, count=2)
    assert set(speeds) == {"dynamics", "agent"} and all(speed > 0 for speed in speeds.values())
