"""Random numbers that depend on what they are for, not on what was drawn before."""

import lightning as L
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dydiff.utils.seeding import SeededModule, seed_of

KEYS = st.lists(st.integers(0, 2**64), max_size=4).map(tuple)


@given(KEYS, KEYS)
def test_a_seed_belongs_to_one_key_and_every_generator_takes_it(key, other):
    assert (seed_of(*key) == seed_of(*other)) == (key == other)
    torch.Generator().manual_seed(seed_of(*key))


def test_seeds_of_neighbouring_keys_have_nothing_in_common():
    """Each bit of 63 is set in half of the seeds, and flips in half of the steps to the next key."""
    seeds = torch.tensor([seed_of(0, epoch) for epoch in range(4000)])
    bits = (seeds[:, None] >> torch.arange(63)) & 1
    flips = bits[1:] ^ bits[:-1]
    for share in (bits.double().mean(0), flips.double().mean(0)):
        assert (share - 0.5).abs().max() < 5 * 0.5 / 4000**0.5
    assert (seeds >= 0).all()


def test_seeds_never_change():
    """What a run draws after it is resumed must be what the version that saved it would have drawn."""
    assert [seed_of(), seed_of(0), seed_of(0, 1)] == [
        1_665_333_220_245_342_802,
        5_254_295_370_254_170_289,
        5_973_285_143_095_172_824,
    ]


class Drawing(SeededModule):
    """Notes a random number of each step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.drawn = {}

    def training_step(self, batch):
        self.drawn.setdefault(self.current_epoch, []).append(float(torch.rand(())))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(seed, folder, epochs=3, steps=2, **options):
    module = Drawing()
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    # A loader without a generator of its own draws from the global one.
    trainer.fit(module, DataLoader(torch.zeros(steps), generator=torch.Generator()), **options)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module.drawn


def test_an_epoch_draws_the_same_whatever_came_before_it(tmp_path):
    whole, more_steps, other = train(5, tmp_path), train(5, tmp_path, steps=4), train(6, tmp_path)
    assert {epoch: drawn[:2] for epoch, drawn in more_steps.items()} == whole
    numbers = [number for drawn in (*whole.values(), *other.values()) for number in drawn]
    assert len(set(numbers)) == len(numbers) == 12
    train(5, tmp_path, epochs=2)
    assert train(5, tmp_path, ckpt_path=tmp_path / "last.ckpt", weights_only=True) == {2: whole[2]}
