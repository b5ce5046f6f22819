"""A fixed-capacity, first-in-first-out buffer of transitions that lives on one device."""

import torch
from torch import Tensor

from dydiff.data.episodes import Transitions


class TransitionBuffer:
    """Keeps the newest ``capacity`` transitions.

    Args:
        capacity: Largest number of transitions kept.
        obs_dim: Size of a state.
        act_dim: Size of an action.
        device: Where the tensors live.
    """

    def __init__(self, capacity: int, obs_dim: int, act_dim: int, device: torch.device | str = "cpu") -> None:
        # Empty pages cost no memory until they are written.
        self._storage = Transitions(
            torch.empty(capacity, obs_dim, device=device),
            torch.empty(capacity, act_dim, device=device),
            torch.empty(capacity, device=device),
            torch.empty(capacity, obs_dim, device=device),
            torch.empty(capacity, dtype=torch.bool, device=device),
        )
        self.capacity = capacity
        self._size = 0
        self._next = 0

    def __len__(self) -> int:
        return self._size

    def insert(self, transitions: Transitions) -> None:
        """Add ``[N]`` transitions and overwrite the oldest; of more than ``capacity``, only the last are kept."""
        transitions = transitions.at(slice(-self.capacity, None))
        count = len(transitions.reward)
        rows = (self._next + torch.arange(count, device=self._storage.reward.device)) % self.capacity
        for stored, new in zip(self._storage, transitions, strict=True):
            stored[rows] = new.to(stored)
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def at(self, index: Tensor | slice) -> Transitions:
        """The transitions at ``index``, each in ``[0, len(self))``."""
        return self._storage.at(index)

    def state_dict(self) -> dict[str, Tensor | int]:
        """The stored transitions and the row of the next insertion, without the unused capacity."""
        used = self._storage.at(slice(0, self._size))._asdict()
        if self._size < self.capacity:  # saving a view would save the whole tensor
            used = {key: value.clone() for key, value in used.items()}
        return {**{key: value.cpu() for key, value in used.items()}, "next": self._next}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Restore :meth:`state_dict`, row by row; a full buffer is loaded into a larger one from its oldest row on."""
        self._next = int(state["next"])
        for key, stored in self._storage._asdict().items():
            value = state[key]
            assert isinstance(value, Tensor)
            self._size = len(value)
            if self._next < self._size < self.capacity:
                value = value.roll(-self._next, 0)
            stored[: self._size] = value.to(stored)
        if self._size < self.capacity:
            self._next = self._size
