"""Makes transformers' and TRL's own trainers handle a `PolicyPatchModel` correctly.

These trainers know two kinds of model: their own and PEFT's. For any other they save the whole module, and DPO uses the
unpatched base as its reference. transformers has no hook for this, so this file adds one to the constructor of its
`Trainer`, as soon as both `Trainer` and `PolicyPatchModel` are imported. `policy_patch.training.adopted` has the
changed behaviour; trainers of other models are not changed.
"""

import importlib.abc
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

_MODULE = "transformers.trainer"
# Imported by name when it is needed: training is on a higher floor than the model, and takes seconds to import.
_RULES = "policy_patch.training.adopted"


def watch_trainers(is_patched: Callable[[Any], bool]) -> None:
    """Change transformers' `Trainer` now if it is imported, otherwise as soon as it is imported.

    Args:
        is_patched (`Callable[[Any], bool]`):
            Returns whether an object is a patched model.
    """
    if _MODULE in sys.modules:
        _prepare(importlib.import_module(_MODULE), is_patched)  # waits for another thread that is importing it
    else:
        sys.meta_path.insert(0, _AfterImport(is_patched))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Waits for the import of transformers' `Trainer`, and changes it then. Other finders find the module."""

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
                sys.meta_path.insert(0, self)  # wait for the next import
                raise
            _prepare(module, self._is_patched)

        spec.loader.exec_module = load_and_prepare
        return spec


def _rules() -> Any:
    return importlib.import_module(_RULES)


def _prepare(module: Any, is_patched: Callable[[Any], bool]) -> None:
    """Change the `Trainer` of `module`, so that a patched model gets the adopted trainer class."""
    trainer, make, start = module.Trainer, module.Trainer.__new__, module.Trainer.__init__

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        if is_patched(kwargs.get("model", args[0] if args else None)):
            cls = _rules().adopted(cls)
        return make(cls) if make is object.__new__ else make(cls, *args, **kwargs)

    @wraps(start)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if is_patched(getattr(self, "model", None)):  # `model_init` or a subclass may have made the model
            _rules().check_adopted(self)

    __new__.__signature__ = inspect.signature(start)  # so that `inspect.signature` of the class does not change
    trainer.__new__, trainer.__init__ = __new__, __init__
