"""The threads of torch's operators during a command."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from dydiff.cli.threads import torch_threads

CPU = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
GPU = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda", 0)))


@pytest.fixture(autouse=True)
def _three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("count", "trainer", "expected"),
    [(2, CPU, 2), (2, GPU, 2), ("auto", CPU, 1), ("auto", GPU, 3)],
    ids=["given", "given with an accelerator", "CPU", "accelerator"],
)
def test_threads_while_a_command_runs_and_after_it(count, trainer, expected):
    with torch_threads(count, trainer):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), torch_threads(count, trainer):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3
