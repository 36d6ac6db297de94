"""A key-value cache with room to grow: a new token writes its own place instead of copying everything before it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Places that are added when the room is used up."""


class RoomyLayer(DynamicLayer):
    """One layer. keys, values: [B, heads, L, D], views of larger tensors once they have grown."""

    _room: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, states: tuple[Tensor, Tensor] | None) -> RoomyLayer:
        """A layer that holds (keys, values), or nothing."""
        layer = cls()
        if states is not None:
            layer.lazy_initialization(*states)
            layer.keys, layer.values = states
        return layer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states [B, heads, n, D]; all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        used, wanted = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._room is None or wanted > self._room[0].shape[-2]:
            self._room = (_enlarged(self.keys, wanted + ROOM), _enlarged(self.values, wanted + ROOM))
        keys, values = self._room
        keys[:, :, used:wanted] = key_states
        values[:, :, used:wanted] = value_states
        self.keys, self.values = keys[:, :, :wanted], values[:, :, :wanted]
        return self.keys, self.values


def _enlarged(states: Tensor, places: int) -> Tensor:
    larger = states.new_empty(*states.shape[:2], places, states.shape[3])
    larger[:, :, : states.shape[2]] = states
    return larger
