"""What the page serves: one base in memory, and the patches that visitors may put in front of it.

Nothing is loaded before somebody asks, so that the page is there at once. Many visitors share the base; each request
names its own stack.
"""

import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from policy_patch.errors import ModelLoadError, PatchNameError
from policy_patch.evaluation.scorers import load_scorer
from policy_patch.hub import HubOptions, PatchLocation, locate_patch
from policy_patch.model import PolicyPatchModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_PATCHES = 32  # of visitors together; above that the one that was added first is forgotten


@dataclass(frozen=True)
class Offered:
    """A patch on offer.

    Args:
        label (`str`):
            What visitors see: the name of a lab patch, or the id.
        source (`str`):
            Folder or Hub id.
        name (`str`):
            What the model calls it.
        ours (`bool`):
            The page came with it; it is never forgotten.
    """

    label: str
    source: str
    name: str
    ours: bool


@dataclass
class Loaded:
    """What is in memory.

    Args:
        base (`str`):
            Hub id, folder or `lab:base`.
        model ([`PolicyPatchModel`]):
            Around the base, with every patch on offer.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's.
        scorer ([`Scorer`]):
            What the badges are from.
        patches (`dict[str, Offered]`):
            By label.
        locations (`dict[str, PatchLocation]`):
            Where the files of each are, by label.
    """

    base: str
    model: PolicyPatchModel
    tokenizer: "PreTrainedTokenizerBase"
    scorer: Any
    patches: dict[str, Offered] = field(default_factory=dict)
    locations: dict[str, PatchLocation] = field(default_factory=dict)

    def stack(self, labels: list[str]) -> str | tuple[str, ...]:
        """Return what `patch_names` wants for a row behind these patches.

        Raises:
            PatchNameError: a patch that is not on offer any more.
        """
        missing = [label for label in labels if label not in self.patches]
        if missing:
            raise PatchNameError(f"`{missing[0]}` is not in memory any more. Add it again.")
        return tuple(self.patches[label].name for label in labels) or "__base__"

    def wrapper(self, labels: list[str]) -> PolicyPatchModel:
        """Return a model of its own around the same base, with these patches as its active stack."""
        model = PolicyPatchModel(self.model.get_base_model())
        for label in labels:
            model.load_patch(self.locations[label].folder, self.patches[label].name, tokenizer=self.tokenizer)
        if labels:
            model.set_patch([self.patches[label].name for label in labels])
        return model.eval()


class Served:
    """Loads the base and its patches when first asked, once.

    Args:
        base (`str`):
            Hub id or folder of a causal language model, or `lab:base`.
        patches (`list[str]`):
            Folders or Hub ids (`org/tox-patch@v1.0.0`); of the lab `lab:<risk>`.
        base_may_change (`bool`, *optional*, defaults to `False`):
            Visitors may load another base, for all.
    """

    def __init__(self, base: str, patches: list[str], *, base_may_change: bool = False) -> None:
        self.base, self.offered = base, list(patches)
        self.base_may_change = base_may_change
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether `get` returns at once."""
        return self._loaded is not None

    def get(self) -> Loaded:
        """Return what is in memory; the first to ask loads it.

        Raises:
            ModelLoadError: the base cannot be loaded.
            PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: a patch cannot.
        """
        loaded = self._loaded
        if loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = _load(self.base, self.offered)
                loaded = self._loaded
        return loaded

    def add(self, source: str) -> str:
        """Load one more patch, for all, and return its label.

        Raises:
            PatchNameError: no id.
            PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: as [`PolicyPatchModel.load_patch`].
        """
        source = source.strip()
        if not source:
            raise PatchNameError("No patch was named. Give a Hub id, like org/tox-patch or org/tox-patch@v1.0.0.")
        if os.path.isdir(source) and not self.base_may_change:  # a public page does not look into its own disk
            raise PatchNameError(f"`{source}` is a folder of this machine; only ids of the Hub are taken here.")
        loaded = self.get()
        with self._lock:
            if source not in loaded.patches:
                # Not with the server's own token: visitors of a public page would see its private repositories.
                _add(loaded, source, ours=False, token=None if self.base_may_change else False)
                for old in [label for label, one in loaded.patches.items() if not one.ours][:-MOST_PATCHES]:
                    loaded.model.delete_patch(loaded.patches.pop(old).name)
                    del loaded.locations[old]
        return source

    def change_base(self, base: str, patches: list[str]) -> Loaded:
        """Put another base in memory, for all; the old one stays if the new one cannot be loaded."""
        if not self.base_may_change:
            raise ModelLoadError("The base of this page is fixed. Run it yourself: `policy-patch demo --ui`.")
        loaded = _load(base.strip(), patches)
        with self._lock:
            self.base, self.offered, self._loaded = base.strip(), patches, loaded
        return loaded


def _load(base: str, patches: list[str]) -> Loaded:
    if base.startswith("lab:"):
        torch.set_num_threads(1)  # of each visitor: on a miniature more would only wait for each other
    model, tokenizer = _base_of(base)
    loaded = Loaded(base, PolicyPatchModel(model).eval(), tokenizer, _scorer_of(base))
    for source in patches:
        _add(loaded, source, ours=True)
    return loaded


def _base_of(name: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from policy_patch.cli.models import load_model

    if not name:
        raise ModelLoadError("No base was named. Give a Hub id, or `lab:base`.")
    return load_model(name)


def _scorer_of(base: str) -> Any:
    if base.startswith("lab:"):
        from policy_patch.lab import LabInsultScorer

        return LabInsultScorer()
    return load_scorer("lexical")


def _add(loaded: Loaded, source: str, *, ours: bool, token: bool | None = None) -> None:
    from policy_patch.lab import lab_patch_folder

    is_lab = source.startswith("lab:")
    place = lab_patch_folder(source.removeprefix("lab:")) if is_lab else source
    location = locate_patch(place, HubOptions(token=token))
    label = source.removeprefix("lab:")
    name = re.sub(r"\W", "-", label).strip("-") or "patch"
    taken = {one.name for one in loaded.patches.values()}
    if name in taken:
        name = next(f"{name}-{number}" for number in range(2, 2 + len(taken) + 1) if f"{name}-{number}" not in taken)
    loaded.model.load_patch(location.folder, name, tokenizer=loaded.tokenizer)
    loaded.patches[label] = Offered(label, source, name, ours)
    loaded.locations[label] = location
