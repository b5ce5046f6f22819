"""d3rlpy's updates, for ``benchmarks.harness.Peer``: run by an interpreter that has d3rlpy.

Arguments: algorithm (td3bc or cql), state and action size, updates of a slice.
"""

import sys
import time

import d3rlpy
import numpy as np
import torch


def main(name: str, obs_dim: int, act_dim: int, updates: int) -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    count = 10_000
    dataset = d3rlpy.dataset.MDPDataset(
        random.normal(size=(count, obs_dim)).astype(np.float32),
        random.uniform(-1, 1, (count, act_dim)).astype(np.float32),
        random.normal(size=(count, 1)).astype(np.float32),
        np.zeros(count, np.float32),
        (np.arange(count) % 1000 == 999).astype(np.float32),
    )
    config = {"td3bc": d3rlpy.algos.TD3PlusBCConfig, "cql": d3rlpy.algos.CQLConfig}[name]
    algorithm = config(batch_size=256).create(device="cpu:0")
    algorithm.build_with_dataset(dataset)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(updates):
            algorithm.update(dataset.sample_transition_batch(256))
        print("seconds", time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
