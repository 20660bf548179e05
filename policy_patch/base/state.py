"""The state of a backbone: everything its output depends on, to decide whether a result kept from earlier is stale.

`priming.py` uses it for kept prefixes. The state covers: the modules and their classes' `forward`; parameters and
buffers; attributes of modules, among them PEFT's switches and merged adapters; the configuration; autocast. If foreign
code is involved (hooks, a replaced `forward`, objects that cannot be compared), there is no state, and nothing may be
kept. It misses one thing: a write that changes a few numbers of a large weight and bypasses torch's version counter
(`weight.data[0, 0] = 1`), because large weights are compared by counter, address and a sample.
"""

import enum
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Our choice: tensors up to this size (norms, biases, rotary frequencies) are compared whole, larger ones at `_SAMPLES`
# places.
_COMPARED_WHOLE, _SAMPLES = 2048, 16
_MOST_VALUES = 200_000  # of attributes; walking a base with more at each call would cost too much

# Their modules keep all of their state in attributes, weights and buffers. With other code the prefix runs anew at
# every call.
_LIBRARIES = frozenset({"torch", "transformers", "peft", "accelerate", "bitsandbytes", "torchao", "optimum", "hqq"})
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})


@dataclass(frozen=True)
class BaseState:
    """The state of a backbone at one moment.

    Args:
        facts (`tuple`):
            Modules, attributes, configuration, and identity of each tensor; compared by `==`.
        numbers (`tuple[torch.Tensor, ...]`):
            Copies of small tensors and samples of large ones, one 1-D tensor for each device and dtype.
    """

    facts: tuple
    numbers: tuple[torch.Tensor, ...]

    def same_as(self, other: "BaseState") -> bool:
        """Return whether both states are equal."""
        if self.facts != other.facts or len(self.numbers) != len(other.numbers):
            return False
        return all(torch.equal(one, another) for one, another in zip(self.numbers, other.numbers))


class _CannotTellError(Exception):
    """Raised when the output depends on something that cannot be compared."""


def base_state(roots: Iterable[nn.Module], is_ours: Callable[[Any], bool]) -> BaseState | None:
    """Return the state of the modules below `roots`, or None if it cannot be determined.

    Args:
        roots (`Iterable[torch.nn.Module]`):
            The backbone, and the token embeddings.
        is_ours (`Callable[[Any], bool]`):
            Returns whether a hook belongs to this package; such hooks leave a prefix alone and are ignored.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return None
    walk = _Walk(is_ours)
    try:
        with torch.no_grad():
            for root in roots:
                walk.attention(getattr(root, "config", None))
                for module in root.modules():
                    walk.module(module)
        return BaseState((*walk.facts, *_modes(walk.devices)), walk.numbers())
    except _CannotTellError:
        return None


def _modes(devices: set[str]) -> tuple:
    """Return the global settings of torch."""
    autocast = [
        (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in sorted(devices - {"meta"})
    ]
    return (*autocast, torch.get_float32_matmul_precision())


class _Walk:
    """One walk over modules; gathers facts and tensors on the way."""

    def __init__(self, is_ours: Callable[[Any], bool]) -> None:
        self.facts: list[Any] = []
        self.devices: set[str] = set()
        self._is_ours = is_ours
        self._seen: dict[int, Any] = {}  # visited objects by id; keeps them alive, so that no id is used twice
        self._tensors: dict[tuple, list[torch.Tensor]] = {}
        self._values = 0

    def module(self, module: nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen[id(module)] = module
        values, add = vars(module), self.facts.append
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if "forward" in values or (hooks and not all(map(self._is_ours, hooks))):
            raise _CannotTellError()
        add((type(module), type(module).forward, *module._modules))
        self.class_of(type(module))
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                add((name, None if tensor is None else self.tensor(tensor)))
        for name in values.keys() - _OF_EVERY_MODULE:
            value = values[name]
            add((name, value if type(value) in _PLAIN else self.value(value)))

    def attention(self, config: Any) -> None:
        """Record the attention function that a configuration selects."""
        name = getattr(config, "_attn_implementation", None)
        function = ALL_ATTENTION_FUNCTIONS.get(name) if name is not None else None
        if function is not None:
            self.facts.append((name, function))
            if getattr(function, "__module__", "").partition(".")[0] not in _LIBRARIES:
                raise _CannotTellError()

    def class_of(self, kind: type) -> None:
        """Record the attributes of a class. Refuse code outside `_LIBRARIES`: it may read globals, which are unseen."""
        if id(kind) in self._seen:
            return
        self._seen[id(kind)] = kind
        if kind.forward.__module__.partition(".")[0] not in _LIBRARIES:
            raise _CannotTellError()
        for each in kind.__mro__[: kind.__mro__.index(nn.Module)]:
            self.facts.extend((name, value) for name, value in vars(each).items() if type(value) in _PLAIN)

    def tensor(self, tensor: torch.Tensor) -> tuple:
        """Return the identity of a tensor, and record its numbers for comparison."""
        count, dtype, device = tensor.numel(), tensor.dtype, tensor.device
        self.devices.add(device.type)
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and device.type != "meta"
        whole = plain and count <= _COMPARED_WHOLE and tensor.is_contiguous()
        if whole or (plain and tensor.is_contiguous()):
            number, step = (count, 1) if whole else (_SAMPLES, (count // _SAMPLES - 1) | 1)  # odd: columns take turns
            self._tensors.setdefault((device, dtype), []).append(tensor.as_strided((number,), (step,)))
        if whole:  # rotary modules rewrite equal numbers at every call, so the version counter is useless
            return tensor.shape, dtype, device
        version = 0 if tensor.is_inference() else tensor._version
        return _place(tensor), version, tensor.shape, dtype, device

    def numbers(self) -> tuple[torch.Tensor, ...]:
        """Return the numbers of all tensors, joined by device and dtype."""
        return tuple(torch.cat(samples) for samples in self._tensors.values())

    def value(self, value: Any) -> Any:
        """Return a stand-in for `value` that compares equal as long as the content of `value` is unchanged."""
        kind = type(value)
        if kind in _PLAIN or id(value) in self._seen:
            return value if kind in _PLAIN else id(value)
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _CannotTellError()
        if issubclass(kind, enum.Enum | type | types.BuiltinFunctionType):
            return value
        if issubclass(kind, torch.Tensor):
            return self.tensor(value)
        if issubclass(kind, nn.Module):
            self.module(value)
            return id(value)
        self._seen[id(value)] = value
        return kind, self._inside(value)

    def _inside(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(map(self.value, value))
        if isinstance(value, set | frozenset):
            return frozenset(map(self.value, value))
        if isinstance(value, dict):
            return tuple((self.value(key), self.value(each)) for key, each in value.items())
        if isinstance(value, types.FunctionType):
            return value, tuple(map(self._cell, value.__closure__ or ()))
        if isinstance(value, types.MethodType):
            return value.__func__, self.value(value.__self__)
        if not hasattr(value, "__dict__"):
            raise _CannotTellError()  # no attributes to compare
        return tuple((name, self.value(each)) for name, each in vars(value).items())

    def _cell(self, cell: types.CellType) -> Any:
        try:
            return self.value(cell.cell_contents)
        except ValueError as error:  # empty until its function is run
            raise _CannotTellError() from error


def _place(tensor: torch.Tensor) -> int:
    """Return the memory address of a tensor's data, or the object's id for a subclass without storage of its own."""
    try:
        return tensor.data_ptr()
    except RuntimeError:  # no storage of its own
        return id(tensor)
