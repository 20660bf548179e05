"""Loads transformers models, one at a time in this process, and checks that all their weights have values.

While `PreTrainedModel.from_pretrained` builds a model, it replaces global functions of the process:
`PreTrainedModel.tie_weights` by a function that does nothing (`no_tie_weights` in transformers/initialization.py),
`torch.linspace` (`meta_device_safe_creation_ops` there), and torch's default dtype (`local_torch_dtype` in
modeling_utils.py). Afterwards each is restored to the value found before. If two loads overlap, the second finds the
first one's replacement and restores that for good: from then on no model of the process ties its head, and tied heads
stay on the meta device, without values. Seen with transformers 5.19 to 5.24.

The caller chooses the model and the device.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from policy_patch.errors import ModelLoadError
from policy_patch.privacy.redaction import blank_error

_LARGEST_CONFIG = 2**24  # bytes; our choice: large configurations list a hundred thousand labels
_WAIT = 10.0  # seconds for another load to restore what it replaced, which takes milliseconds; our choice

_lock = threading.RLock()


@contextmanager
def loading() -> Iterator[None]:
    """Open a context in which no other thread loads a model through this package. A thread may enter it again.

    Use it around code that loads by other means than [`load_pretrained`]: a function of the caller, PEFT, lm-eval. That
    code must not wait for another thread that loads a model: the two would wait for each other.
    """
    with _lock:
        yield


def load_pretrained(auto_class: Any, source: Any, *, named: str | None = None, advice: str = "", **options: Any) -> Any:
    """Return `auto_class.from_pretrained(source, **options)`, loaded while nothing else of this package loads a model.

    Args:
        auto_class (`type`):
            A model class of transformers, such as `AutoModelForCausalLM`.
        source (`str` or `os.PathLike`):
            Hub id or folder.
        named (`str`, *optional*):
            Name of the model in messages. Defaults to "the model" and its source.
        advice (`str`, *optional*):
            Sentence for the error message: what to do if the model cannot be loaded.
        options (*optional*):
            Passed to `from_pretrained`.

    Raises:
        ModelLoadError: the model cannot be loaded, or another thread loaded one by other means at the same time.
    """
    named = named or f"the model `{os.fspath(source)}`"
    with loading():
        before = _wait_until_sound(named)
        with load_errors(named, f"{no_folder(source)}{advice}"):
            _check_config_size(source)
            model = auto_class.from_pretrained(source, **options)
        _check_undisturbed(named, before)
        check_has_values(model, named, asked=_asks_for_none(options))
        _check_types(model, named)
    return model


@contextmanager
def load_errors(named: str, advice: str = "") -> Iterator[None]:
    """Turn any error of the code in this context, where transformers reads a model's files, into a `ModelLoadError`.

    The files may come from a stranger and be wrong in any way: full memory or endless nesting is a `RuntimeError`.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except ModelLoadError:
        raise
    except (
        OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError, SafetensorError,
        StrictDataclassError,
    ) as error:  # fmt: skip
        blank_error(error)  # the HTTP library quotes a token that cannot be sent
        raise ModelLoadError(f"Cannot load {named}: {_first_line(error)} {advice}".rstrip()) from error


def no_folder(source: Any) -> str:
    """Return a sentence if a name is not that of a folder here; it may be a misspelt one, and no id on the Hub."""
    return "" if os.path.isdir(source) else f"There is no folder `{os.fspath(source)}` here, either. "


def check_has_values(model: Any, named: str, *, asked: bool = False) -> None:
    """Raise `ModelLoadError` if a model has weights or buffers on the meta device that nothing will fill.

    Weights that accelerate has offloaded to disk or CPU memory are exempt: they are filled when they are needed.

    Args:
        model ([`~torch.nn.Module`]):
            A model that was just loaded.
        named (`str`):
            Name of the model in messages.
        asked (`bool`, *optional*, defaults to `False`):
            Whether the caller asked for the meta device; then nothing is checked.
    """
    if asked:
        return
    empty = [
        f"{name}.{key}".removeprefix(".")
        for name, module in model.named_modules()
        if not _is_offloaded(module)
        for tensors in (module._parameters, module._buffers)
        for key, tensor in tensors.items()
        if tensor is not None and tensor.device.type == "meta"
    ]
    if empty:
        shown = ", ".join(f"`{name}`" for name in empty[:3]) + (f" and {len(empty) - 3} more" if empty[3:] else "")
        raise ModelLoadError(f"Cannot load {named}: {shown} got no values. {_ELSEWHERE}")


_ELSEWHERE = (
    "It looks as if another thread loads, or has loaded, a model with transformers itself at the same time. That is "
    "not safe: afterwards, tied weights may no longer work in this process. Load models one after the other, or all "
    "inside `policy_patch.base.loading.loading()`; if it happens again, restart the process."
)


def load_config(source: str | os.PathLike, *, named: str | None = None, **options: Any) -> Any:
    """Return the configuration of a model; no code of the repository runs, and no model is built.

    Args:
        source (`str` or `os.PathLike`):
            Hub id or folder.
        named (`str`, *optional*):
            Name of the model in messages. Defaults to "the model" and its source.
        options (*optional*):
            Passed to `AutoConfig.from_pretrained`.

    Raises:
        ModelLoadError: the configuration cannot be read, or is oversized.
    """
    from transformers import AutoConfig

    with load_errors(named or f"the model `{os.fspath(source)}`", no_folder(source)):
        _check_config_size(source)
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **options)


def _check_config_size(source: Any) -> None:
    """Refuse a folder with an oversized configuration: transformers would read all of it into memory."""
    path = os.path.join(source, "config.json")
    if os.path.isfile(path) and os.path.getsize(path) > _LARGEST_CONFIG:
        raise ModelLoadError(
            f"`{path}` has {os.path.getsize(path):,} bytes; expected at most {_LARGEST_CONFIG:,}. It was not read."
        )


def _wait_until_sound(named: str) -> Any:
    """Wait until no other load has functions replaced, and return torch's default dtype."""
    import torch

    end = time.monotonic() + _WAIT
    while swapped := _swapped():
        if time.monotonic() > end:
            raise ModelLoadError(f"Cannot load {named}: {swapped} is swapped out for a load. {_ELSEWHERE}")
        time.sleep(0.01)
    return torch.get_default_dtype()


def _check_undisturbed(named: str, dtype: Any) -> None:
    import torch

    disturbed = _swapped() or ("torch's default dtype" if torch.get_default_dtype() != dtype else None)
    if disturbed:
        raise ModelLoadError(f"Cannot load {named}: {disturbed} was swapped meanwhile. {_ELSEWHERE}")


def _swapped() -> str | None:
    """Return the name of a function that transformers has replaced during a load and not yet restored, if any."""
    import torch
    from transformers import PreTrainedModel

    functions = {"`PreTrainedModel.tie_weights`": PreTrainedModel.tie_weights, "`torch.linspace`": torch.linspace}
    for name, function in functions.items():
        # Both replacements are inner functions of that file; wrappers by other packages are left alone.
        is_swap = getattr(function, "__module__", None) == "transformers.initialization"
        if is_swap and "<locals>" in getattr(function, "__qualname__", ""):
            return name
    return None


def _check_types(model: Any, named: str) -> None:
    """Refuse a model whose weights have a dtype that nobody asked for: torch's default one, changed by another load.

    Some models keep certain weights in float32, in every layer; this is accepted. Buffers are not checked:
    RecurrentGemma always has one in bfloat16.
    """
    import torch

    wanted = getattr(model.config, "dtype", None)
    if not isinstance(wanted, torch.dtype) or getattr(model, "hf_quantizer", None) is not None:
        return
    types: dict[str, set[torch.dtype]] = {}  # by name, layer numbers replaced by "#"
    for name, weight in model.named_parameters():
        if weight.dtype in (torch.float32, torch.float16, torch.bfloat16):
            types.setdefault(re.sub(r"\d+", "#", name), set()).add(weight.dtype)
    for name, found in types.items():
        if len(found) > 1 or not found <= {wanted, torch.float32}:
            shown = " and ".join(sorted(str(dtype) for dtype in found))
            raise ModelLoadError(f"Cannot load {named}: `{name}` is {shown}, asked for was {wanted}. {_ELSEWHERE}")


def _asks_for_none(options: dict[str, Any]) -> bool:
    """Return whether the caller asks for weights on the meta device."""
    import torch

    device_map = options.get("device_map")
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    return any(str(place) == "meta" for place in places) or torch.get_default_device().type == "meta"


def _is_offloaded(module: Any) -> bool:
    hook = getattr(module, "_hf_hook", None)
    return any(getattr(each, "offload", False) for each in (hook, *getattr(hook, "hooks", ())))


def _first_line(error: Exception) -> str:
    """Return the first line of a message; all of it in one line if the first announces a list."""
    first = (str(error).splitlines() or [""])[0]
    return (" ".join(str(error).split()) if first.rstrip().endswith(":") else first) or type(error).__name__


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # the thread that holds the lock is not in the child
    os.register_at_fork(after_in_child=_renew_lock)
