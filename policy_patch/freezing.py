"""Who keeps a base frozen: wrappers share it, and it stays frozen until the last of them is unloaded.

Only `requires_grad` is looked after here. What trains in front of the base is the business of the trainers.
"""

import gc
import threading
import weakref

from torch import nn

_LOCK = threading.Lock()


class _Record:
    """What is known of one base: which parameters were trainable before the first wrapper came, and who holds it."""

    def __init__(self) -> None:
        self.flags: dict[str, bool] = {}
        self.by_parameter: list[tuple[weakref.ref, bool]] = []  # PEFT renames the parameters that it wraps
        self.holders: weakref.WeakSet[Freezing] = weakref.WeakSet()

    def note(self, base: nn.Module) -> None:
        """Remember how the parameters are now. What a living holder froze is remembered as it was before."""
        known = self.known()
        for name, parameter in base.named_parameters():
            was = known.get(id(parameter), self.flags.get(name))
            if was is None or (parameter.requires_grad and not self.holders):
                self.flags[name] = parameter.requires_grad
                self.by_parameter.append((weakref.ref(parameter), parameter.requires_grad))

    def known(self) -> dict[int, bool]:
        """Return by the identity of a parameter whether it was trainable; the last note of one counts."""
        return {id(found): flag for reference, flag in self.by_parameter if (found := reference()) is not None}


_RECORDS: weakref.WeakKeyDictionary[nn.Module, _Record] = weakref.WeakKeyDictionary()


class Freezing:
    """One wrapper's share in keeping `base` frozen. It is copied and pickled with the wrapper and the base.

    A wrapper that is forgotten without `end` gives its share up, and the base stays frozen.

    Args:
        base (`torch.nn.Module`):
            All its parameters are frozen, also those that somebody thawed or added since the first wrapper came.

    Example:

    ```python
    >>> from policy_patch.freezing import Freezing
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
        self._base: nn.Module | None = base
        with _LOCK:
            record = _RECORDS.setdefault(base, _Record())
            record.note(base)
            record.holders.add(self)
            self._flags = record.flags
        base.requires_grad_(False)

    def end(self) -> None:
        """Give the share up. The last one makes each parameter trainable or frozen as it was before the first.

        Parameters that were added since are left as they are. A second call does nothing.
        """
        base = self._base
        self.leave()
        if base is None:
            return
        with _LOCK:
            record = _RECORDS.get(base) or _Record()
            if record.holders:
                gc.collect()  # a wrapper that nobody has any more may wait for the collector
            if record.holders:
                return
            _RECORDS.pop(base, None)
        known = record.known()
        for name, parameter in base.named_parameters():
            flag = known.get(id(parameter), self._flags.get(name))
            if flag is not None:
                parameter.requires_grad_(flag)

    def leave(self) -> None:
        """Give the share up and leave the base as it is, whoever else holds it."""
        if self._base is not None:
            with _LOCK:
                record = _RECORDS.get(self._base)
                if record is not None:
                    record.holders.discard(self)
        self._base = None

    def __setstate__(self, state: dict) -> None:
        """Take the share of the original, in the copy of its base."""
        self.__dict__.update(state)
        if self._base is not None:
            with _LOCK:
                record = _RECORDS.setdefault(self._base, _Record())
                record.flags = self._flags
                record.holders.add(self)
