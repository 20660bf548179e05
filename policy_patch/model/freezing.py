"""Who keeps a base frozen: wrappers share it, and it stays frozen until the last of them is unloaded.

Only `requires_grad` is looked after here. What trains in front of the base is the business of the trainers.
"""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

_LOCK = threading.Lock()
_LOOKS_ON: ContextVar[bool] = ContextVar("policy_patch_looks_on", default=False)


class _Record:
    """What is known of one base: which parameters were trainable before the first wrapper came, and who holds it.

    They are known by their module, since PEFT renames what it wraps, and by name in a copy. Not by themselves: torch
    exchanges parameters that nobody refers to, and refuses where somebody does.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, bool] = {}
        self.by_module: weakref.WeakKeyDictionary[nn.Module, dict[str, bool]] = weakref.WeakKeyDictionary()
        self.holders: weakref.WeakSet[Freezing] = weakref.WeakSet()

    def flag(self, module: nn.Module, own_name: str, full_name: str) -> bool | None:
        """Return whether a parameter was trainable, or None if it was not there."""
        return self.by_module.get(module, {}).get(own_name, self.by_name.get(full_name))

    def note(self, base: nn.Module) -> None:
        """Remember how the parameters are now. What a living holder froze is remembered as it was before."""
        for module, own_name, full_name, parameter in _places(base):
            if self.flag(module, own_name, full_name) is None or (parameter.requires_grad and not self.holders):
                self.by_module.setdefault(module, {})[own_name] = parameter.requires_grad
                self.by_name[full_name] = parameter.requires_grad


def _places(base: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Parameter]]:
    """Yield each parameter with the module that has it, and its name there and in the whole; tied ones twice."""
    for module_name, module in base.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, f"{module_name}.{name}" if module_name else name, parameter


_RECORDS: weakref.WeakKeyDictionary[nn.Module, _Record] = weakref.WeakKeyDictionary()


class Freezing:
    """One wrapper's share in keeping `base` frozen. It is copied and pickled with the wrapper and the base.

    A wrapper that is forgotten without `end` gives its share up, and the base stays frozen.

    Args:
        base (`torch.nn.Module`):
            All its parameters are frozen, also those that somebody thawed or added since the first wrapper came.

    Example:

    ```python
    >>> from policy_patch.model.freezing import Freezing
    >>> base = tiny_model("llama")
    >>> first, second = Freezing(base), Freezing(base)
    >>> first.end()
    >>> any(parameter.requires_grad for parameter in base.parameters())
    False
    >>> second.end()
    >>> all(parameter.requires_grad for parameter in base.parameters())
    True

    ```
    """

    def __init__(self, base: nn.Module) -> None:
        self._base: nn.Module | None = None
        if _LOOKS_ON.get():
            return
        self._base = base
        with _LOCK:
            record = _RECORDS.setdefault(base, _Record())
            record.note(base)
            record.holders.add(self)
            self._by_name = record.by_name
        base.requires_grad_(False)

    def end(self) -> None:
        """Give the share up. The last one makes each parameter trainable or frozen as it was before the first.

        Parameters that were added since are left as they are. A second call does nothing.
        """
        base, self._base = self._base, None
        if base is None:
            return
        with _LOCK:
            record = _RECORDS.get(base, _Record())
            record.holders.discard(self)
            if record.holders:
                gc.collect()  # a wrapper that nobody has any more may wait for the collector
            if record.holders:
                return
            _RECORDS.pop(base, None)
        for module, own_name, full_name, parameter in _places(base):
            flag = record.flag(module, own_name, full_name)
            if flag is not None:
                parameter.requires_grad_(flag)

    def __setstate__(self, state: dict) -> None:
        """Take the share of the original, in the copy of its base."""
        self.__dict__.update(state)
        if self._base is not None:
            with _LOCK:
                record = _RECORDS.setdefault(self._base, _Record())
                record.by_name = self._by_name
                record.holders.add(self)


@contextmanager
def looking_on() -> Iterator[None]:
    """Within the context a new wrapper freezes nothing and gets no share.

    For one that only looks on, as DPO's reference: it does not keep a base frozen that is given back.
    """
    token = _LOOKS_ON.set(True)
    try:
        yield
    finally:
        _LOOKS_ON.reset(token)
