"""Keeps a base frozen while wrappers use it. Several wrappers may share a base; the last `unload` restores it.

This file changes `requires_grad` only. The trainers train the vectors.
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
    """The record of one base: which parameters were trainable before the first wrapper, and the wrappers that hold it.

    Parameters are identified by their module and their name in it, because PEFT renames the modules it wraps. In a copy
    of the base they are identified by their full name. The record never refers to the parameters themselves, because
    torch refuses to swap a parameter that something else refers to.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, bool] = {}
        self.by_module: weakref.WeakKeyDictionary[nn.Module, dict[str, bool]] = weakref.WeakKeyDictionary()
        self.holders: weakref.WeakSet[Freezing] = weakref.WeakSet()

    def flag(self, module: nn.Module, own_name: str, full_name: str) -> bool | None:
        """Return whether a parameter was trainable, or None if it is not in the record."""
        return self.by_module.get(module, {}).get(own_name, self.by_name.get(full_name))

    def note(self, base: nn.Module) -> None:
        """Record which parameters are trainable now. Parameters that a living holder froze keep their older entry."""
        for module, own_name, full_name, parameter in _places(base):
            if self.flag(module, own_name, full_name) is None or (parameter.requires_grad and not self.holders):
                self.by_module.setdefault(module, {})[own_name] = parameter.requires_grad
                self.by_name[full_name] = parameter.requires_grad


def _places(base: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Parameter]]:
    """Yield for each parameter its module, its name in the module, its full name, and itself. Tied ones come twice."""
    for module_name, module in base.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, f"{module_name}.{name}" if module_name else name, parameter


_RECORDS: weakref.WeakKeyDictionary[nn.Module, _Record] = weakref.WeakKeyDictionary()


class Freezing:
    """One wrapper's hold on a frozen base. It is copied and pickled together with the wrapper and the base.

    If a wrapper is garbage-collected without `end`, its hold ends and the base stays frozen.

    Args:
        base (`torch.nn.Module`):
            All its parameters are frozen, including those that were made trainable or added since the first wrapper.

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
        """End the hold. The last hold to end restores `requires_grad` of each parameter as it was before the first.

        Parameters that were added since then are not changed. A second call does nothing.
        """
        base, self._base = self._base, None
        if base is None:
            return
        with _LOCK:
            record = _RECORDS.get(base, _Record())
            record.holders.discard(self)
            if record.holders:
                gc.collect()  # an unused wrapper may still wait for the garbage collector
            if record.holders:
                return
            _RECORDS.pop(base, None)
        for module, own_name, full_name, parameter in _places(base):
            flag = record.flag(module, own_name, full_name)
            if flag is not None:
                parameter.requires_grad_(flag)

    def __setstate__(self, state: dict) -> None:
        """Hold the copy of the base as the original holds the base."""
        self.__dict__.update(state)
        if self._base is not None:
            with _LOCK:
                record = _RECORDS.setdefault(self._base, _Record())
                record.by_name = self._by_name
                record.holders.add(self)


@contextmanager
def looking_on() -> Iterator[None]:
    """Open a context in which a new wrapper neither freezes the base nor holds it.

    DPO's reference policy is made in it, so that the reference does not keep the base frozen after the patched model is
    unloaded.
    """
    token = _LOOKS_ON.set(True)
    try:
        yield
    finally:
        _LOOKS_ON.reset(token)
