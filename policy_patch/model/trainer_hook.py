"""Gives a `PolicyPatchModel` that is handed to transformers' or TRL's own trainer a trainer that does right by it.

Those know two kinds of model: their own, and PEFT's. Of any other they write the whole module, and DPO takes the bare
base for its reference. transformers has no hook for this, so the constructor of its `Trainer` gets one, the first time
that both it and `PolicyPatchModel` are imported. What the trainer then does is in `policy_patch.training.adopted`; a
trainer of any other model is made as ever.
"""

import importlib.abc
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

_MODULE = "transformers.trainer"
# Looked up by name, because training stands above the model and takes seconds to import.
_RULES = "policy_patch.training.adopted"


def watch_trainers(is_patched: Callable[[Any], bool]) -> None:
    """Prepare transformers' `Trainer` now if it is imported, otherwise as soon as it is.

    Args:
        is_patched (`Callable[[Any], bool]`):
            Tells a patched model from anything else.
    """
    if _MODULE in sys.modules:
        _prepare(importlib.import_module(_MODULE), is_patched)  # waits for another thread that is importing it
    else:
        sys.meta_path.insert(0, _AfterImport(is_patched))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the others find transformers' trainers, and prepares them once they are loaded."""

    def __init__(self, is_patched: Callable[[Any], bool]) -> None:
        self._is_patched = is_patched

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _MODULE or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)
            return None
        load = spec.loader.exec_module

        def load_and_prepare(module: Any) -> None:
            try:
                load(module)
            except BaseException:
                sys.meta_path.insert(0, self)  # for the next try
                raise
            _prepare(module, self._is_patched)

        spec.loader.exec_module = load_and_prepare
        return spec


def _rules() -> Any:
    return importlib.import_module(_RULES)


def _prepare(module: Any, is_patched: Callable[[Any], bool]) -> None:
    """Let the `Trainer` of `module` look at the model that it is given."""
    trainer, make, start = module.Trainer, module.Trainer.__new__, module.Trainer.__init__

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        if is_patched(kwargs.get("model", args[0] if args else None)):
            cls = _rules().adopted(cls)
        return make(cls) if make is object.__new__ else make(cls, *args, **kwargs)

    @wraps(start)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if is_patched(getattr(self, "model", None)):  # also where `model_init` made it, or a constructor hands it on
            _rules().check_adopted(self)

    __new__.__signature__ = inspect.signature(start)  # what `inspect` says of the class stays as it is
    trainer.__new__, trainer.__init__ = __new__, __init__
