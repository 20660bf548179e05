"""A KV cache that allocates ahead, so that a decoding step writes one column and does not copy all others.

transformers' `DynamicLayer` joins old and new columns by `torch.cat`, which copies the whole cache at every step.
The layer here returns the same numbers in the same shapes. It knows nothing of patches; `injection.py` puts it into the
caches of patched calls, and a base can use one too:

    base.generate(**inputs, past_key_values=growing(DynamicCache(config=base.config)))
"""

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_SMALLEST_HEADROOM = 128  # columns; allocated is the larger of this and a quarter of the columns in use


class GrowingLayer(DynamicLayer):
    """A [`~transformers.cache_utils.DynamicLayer`] whose `keys` and `values` are views of tensors allocated ahead.

    `keys` and `values` are `(batch, heads, columns, head_dim)` as always. With gradients enabled it concatenates, since
    tensors that autograd keeps must not be overwritten. Operations such as reordering beams, cropping or moving between
    devices replace `keys` and `values` by other tensors; the next `update` notices and copies them once.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stores: dict[str, torch.Tensor] = {}
        self._views: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `(batch, heads, new columns, head_dim)` and return all columns so far."""
        if torch.is_grad_enabled():
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def _appended(self, name: str, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        used = old.shape[-2] if old.numel() else 0
        total = used + new.shape[-2]
        store = self._stores.get(name)
        if store is None or self._views[name] is not old or total > store.shape[-2] or not _writable(store, new):
            batch, heads, _, width = new.shape
            columns = total + max(_SMALLEST_HEADROOM, total // 4)
            store = new.new_empty(batch, heads, columns, width)
            if used:
                store[:, :, :used] = old
        store[:, :, used:total] = new
        self._stores[name], self._views[name] = store, store[:, :, :total]
        return self._views[name]

    def reset(self) -> None:
        """Remove all columns."""
        super().reset()
        self._stores.clear()
        self._views.clear()


def growing(cache: Cache) -> Cache:
    """Make the plain dynamic layers of an empty cache allocate ahead, in place. Other layers and caches stay as is.

    A cache that offloads its layers to the CPU is not changed: a view would keep the memory on the device.
    """
    if getattr(cache, "offloading", False):
        return cache
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and not layer.is_initialized:
            cache.layers[index] = GrowingLayer()
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:  # a cache made without a configuration
        cache.layer_class_to_replicate = GrowingLayer
    return cache


def _writable(store: torch.Tensor, new: torch.Tensor) -> bool:
    """Return whether `new` may be written into `store`. Inference tensors are written to only in inference mode."""
    return store.dtype == new.dtype and (not store.is_inference() or torch.is_inference_mode_enabled())
