"""The KV cache: keys and values of the last prompt and completion, and their ids.

The cache that transformers builds from StarCoder2's configuration forgets what lies behind the sliding window,
so it cannot be cut back once it is longer than the window. Here each layer keeps everything and the model's
mask alone makes the window, however long the prompt; cutting back is setting a length. What was read is kept in
blocks with room at their end: transformers' own layer copies all of its cache for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from jupyter_sc2.engines.decoding.loop import LayerCache

BLOCK_TOKENS = 256  # tokens; for StarCoder2-3B in bf16 7.9 MB over all layers
MAX_STASHED_BYTES = 128 << 20  # of stashed prompts; for StarCoder2-3B in bf16 4,300 tokens

Blocks = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer


class KVLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer: two blocks of (1, kv heads, capacity, head size), filled up to `length`."""

    is_sliding = False
    is_croppable = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends (1, kv heads, T, head size); returns all of it as views."""
        self.keys = self._with_room(self.keys, key_states)
        self.values = self._with_room(self.values, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _with_room(self, block: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        needed = self.length + states.shape[-2]
        if block is not None and block.shape[-2] >= needed:
            return block
        capacity = -(-max(needed, self.length * 5 // 4) // BLOCK_TOKENS) * BLOCK_TOKENS
        larger = states.new_empty((*states.shape[:-2], capacity, states.shape[-1]))
        if block is not None:
            larger[:, :, : self.length] = block[:, :, : self.length]
        return larger

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last tokens; transformers gives their number as a negative one."""
        self.length -= abs(tokens_to_remove)

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        """`query` is the number of new tokens; transformers 5.0 gives their positions, (T,)."""
        return self.length + (query if isinstance(query, int) else query.shape[0]), 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # what transformers 5.0 calls it

    def take(self, block: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Replaces the content by these keys and values."""
        self.keys, self.values = block
        self.length = self.keys.shape[-2]

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.length = 0


class PassCancelled(Exception):
    """Ends a cancelled forward pass."""


class KVCache(Cache, LayerCache):
    """All layers, and the ids they hold: after each whole forward pass, `len(ids)` is every layer's length.

    During a beam search the layers hold the tokens of all hypotheses as well, until one is selected.

    A pass calls `update` once for each layer, so it can be cancelled there: `aborted` is checked.
    """

    def __init__(self, layers: int) -> None:
        self.layers: list[KVLayer]  # type: ignore[assignment]
        Cache.__init__(self, layers=[KVLayer() for _ in range(layers)])
        LayerCache.__init__(self, MAX_STASHED_BYTES)
        self.aborted: Callable[[], bool] | None = None

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See KVLayer. Raises PassCancelled if the pass is aborted; `rollback` then restores the lengths."""
        if self.aborted is not None and self.aborted():
            raise PassCancelled
        states: tuple[torch.Tensor, torch.Tensor] = super().update(
            key_states, value_states, layer_idx, *args, **kwargs
        )
        return states

    @property
    def length(self) -> int:
        return self.layers[0].length if self.layers else 0

    def select(self, places: Sequence[int], ids: Sequence[int]) -> None:
        """Keeps the entries at `places`, written after `self.ids`, and appends `ids`. See LayerCache."""
        start, end = len(self.ids), len(self.ids) + len(ids)
        index = torch.tensor(places, dtype=torch.long)
        for layer in self.layers:
            for block in (layer.keys, layer.values):
                if block is not None and places:
                    block[:, :, start:end] = block[:, :, index.to(block.device)]
            layer.length = end
        self.ids.extend(ids)

    def clear(self) -> None:
        """Forgets everything, also what a failed forward pass left in some of the layers."""
        for layer in self.layers:
            layer.reset()
        super().clear()

    def _set_length(self, length: int) -> None:
        for layer in self.layers:
            layer.length = length

    def _snapshot(self, length: int) -> tuple[Blocks, int]:
        blocks = [
            (layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone())
            for layer in self.layers
            if layer.keys is not None and layer.values is not None
        ]
        return blocks, sum(keys.nbytes + values.nbytes for keys, values in blocks)

    def _restore(self, payload: Blocks) -> None:
        for layer, block in zip(self.layers, payload, strict=True):
            layer.take(block)

    def memory_bytes(self) -> int:
        blocks = [
            block
            for layer in self.layers
            for block in (layer.keys, layer.values)
            if block is not None
        ]
        return sum(block.nbytes for block in blocks) + self._stash.nbytes()
