"""A small copy of a base for the self-check: one layer of each kind, narrow linear maps, no head, shared weights.

An error in the injection shows in one layer of each kind as well as in all layers, and in linear maps that read a few
features of each token as well as in whole ones. So the self-check runs on this copy, in a fraction of the time. The
base itself is not changed.
"""

import copy
import functools
import types
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from policy_patch.base.architecture import backbone_of

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_WIDTH = 32  # width of the feed-forward part, and number of features that linear maps read
_PLAIN = frozenset({bool, int, float, str, type(None)})
_NUMBER_OF_ITS_OWN = frozenset({"layer_idx", "layer_id", "layer_number", "idx"})  # layer numbers


def few_layers(base: PreTrainedModel) -> PreTrainedModel | None:
    """Return a small copy of `base`, or None if there is no safe way to make one.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model. Not changed: modules on the way to its layers are copied, all others are shared.
    """
    backbone = backbone_of(base)
    count = getattr(base.config.get_text_config(), "num_hidden_layers", None)
    named, output = dict(base.named_modules()), base.get_output_embeddings()
    lists = [name for name, module in named.items() if isinstance(module, nn.ModuleList) and len(module) == count]
    head = next((name for name, module in named.items() if module is output), None)
    if backbone is None or len(lists) != 1 or head is None:
        return None
    layers, config = named[lists[0]], base.config.get_text_config()
    needed = _first_of_each_kind(layers, getattr(config, "layer_types", None))
    no_head = nn.Identity()
    no_head.weight = output.weight  # Mamba reads its dtype
    try:
        first = [_narrowed(layer, getattr(config, "intermediate_size", None)) for layer in layers[:needed]]
        small = _replaced(base, lists[0].split("."), nn.ModuleList(first))
        return _replaced(small, head.split("."), no_head)
    except _CannotCopyError:
        return None


class _CannotCopyError(Exception):
    """Raised for a module whose `forward` was replaced such that its copy would run the original module."""


class _FirstFeatures(nn.Linear):
    """A linear map that reads only the first `_WIDTH` features of a token; its output has the original width.

    A linear map sees one token at a time, so narrowing it hides no error of the injection. Its `weight` stays whole for
    code that reads its dtype or uses it directly.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.linear(input[..., :_WIDTH], self.weight[:, :_WIDTH], self.bias)


def _narrowed(layer: nn.Module, width: Any) -> nn.Module:
    """Return a copy of a layer with narrow linear maps and a feed-forward part of width `_WIDTH`, not `width`.

    Fused feed-forward weights become `2 * _WIDTH` wide.
    """
    if any("forward" in vars(each) for each in layer.modules()):
        return layer
    wide = type(width) is int and width > _WIDTH
    return _cut(layer, {width: _WIDTH, 2 * width: 2 * _WIDTH} if wide else {})


def _cut(module: nn.Module, cut: dict[int, int]) -> nn.Module:
    """Return a copy with narrow linear maps and with weights cut from size to size; the module itself if unchanged."""
    changed: dict[str, Any] = {}
    for name, weight in module._parameters.items():
        if type(weight) is nn.Parameter and any(size in cut for size in weight.shape):
            part = weight.detach()[tuple(slice(cut.get(size, size)) for size in weight.shape)]
            changed[name] = nn.Parameter(part, requires_grad=False)
    children = {name: _cut(child, cut) for name, child in module._modules.items() if child is not None}
    children = {name: child for name, child in children.items() if child is not module._modules[name]}
    # A weight of a class other than torch's is quantised and may not be sliceable.
    reads_too_much = type(module) is nn.Linear and type(module.weight) is nn.Parameter and module.in_features > _WIDTH
    if not changed and not children and not reads_too_much:
        return module
    twin = _shallow(module)
    if reads_too_much:
        twin.__class__ = _FirstFeatures
    twin._parameters.update(changed)
    twin._modules.update(children)
    return twin


def _first_of_each_kind(layers: nn.ModuleList, layer_types: Any) -> int:
    """Return the smallest number of first layers that includes every kind of layer."""
    kinds = {}
    for index, layer in enumerate(layers):
        named = layer_types[index] if isinstance(layer_types, list | tuple) and index < len(layer_types) else None
        kinds.setdefault((named, _kind(layer)), index)
    return max(kinds.values()) + 1


def _kind(layer: nn.Module) -> tuple:
    """Return the kind of a layer, a comparable key of its modules, shapes and plain attributes."""
    found = []
    for module in layer.modules():
        attributes = vars(module)
        found.append((type(module), *module._modules))
        for name in attributes.keys() - _OF_EVERY_MODULE - _NUMBER_OF_ITS_OWN:
            value = attributes[name]
            if type(value) in _PLAIN:
                found.append((name, value))
        for name, weight in module._parameters.items():
            found.append((name, None if weight is None else weight.shape))
    return tuple(found)


def _replaced(module: Any, path: list[str], new: nn.Module) -> Any:
    """Return a copy of `module` with `new` at `path`; modules off the path are shared with the original."""
    if not path:
        return new
    twin = _shallow(module)
    twin._modules[path[0]] = _replaced(module._modules[path[0]], path[1:], new)
    return twin


def _shallow(module: Any) -> Any:
    """Return a copy of a module without its hooks, sharing weights and children but not the dicts that hold them."""
    twin = copy.copy(module)
    for key, value in vars(module).items():
        if isinstance(value, dict) and key in _OF_EVERY_MODULE:
            vars(twin)[key] = copy.copy(value)
    if "forward" in vars(module):
        _rebind(twin, module)
    return twin


def _rebind(twin: nn.Module, module: nn.Module) -> None:
    """Make the `forward` of a copy run the copy, if accelerate's hooks replaced it (`device_map`, offloading).

    Source: `add_hook_to_module` of accelerate 1.15, hooks.py.
    """
    forward, old = vars(module)["forward"], vars(module).get("_old_forward")
    of_hook = isinstance(forward, functools.partial) and forward.args == (module,)
    if not of_hook or getattr(old, "__self__", None) is not module:
        raise _CannotCopyError()
    twin._old_forward = types.MethodType(old.__func__, twin)
    twin.forward = functools.update_wrapper(functools.partial(forward.func, twin), twin._old_forward)
