"""What the page serves: one base in memory with the page's own patches, and beside them those that visitors bring.

Nothing is loaded before somebody asks, so that the page is there at once. Many visitors share the base; each request
names its own stack. The page's own patches are fixed when it starts: no visitor adds to them or takes one away.
"""

import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from policy_patch.base.supported import embedding_size
from policy_patch.errors import HubError, ModelLoadError, PatchNameError
from policy_patch.evaluation import load_scorer
from policy_patch.hub.fetch import HubOptions, PatchLocation, locate_patch
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.ui.fetching import fetch_patch, public_commit
from policy_patch.ui.guests import Guests, Offered
from policy_patch.ui.paths import hide_folder
from policy_patch.ui.scratch import Scratch
from policy_patch.ui.sources import wanted_base, wanted_patch
from policy_patch.ui.visitors import Visitors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_STACKED = 8  # patches in front of one text


@dataclass
class Loaded:
    """What is in memory.

    Args:
        base (`str`):
            What visitors see of the base: Hub id, `lab:base`, or the last part of a folder.
        model ([`PolicyPatchModel`]):
            Around the base, with every patch on offer.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's.
        scorer ([`Scorer`]):
            What the badges are from.
        guests ([`Guests`]):
            What visitors brought.
        patches (`dict[str, Offered]`):
            The page's own, by label.
    """

    base: str
    model: PolicyPatchModel
    tokenizer: "PreTrainedTokenizerBase"
    scorer: Any
    guests: Guests
    patches: dict[str, Offered] = field(default_factory=dict)

    def offered(self, visitor: str | None = None) -> dict[str, Offered]:
        """Return what this visitor may use, by label: the page's own patches and the visitor's."""
        return {**self.guests.of(visitor), **self.patches}

    def chosen(self, labels: list[str], visitor: str | None = None) -> list[Offered]:
        """Return the patches that these labels name, in order.

        Raises:
            PatchNameError: too many, one twice, or one that is not on offer for this visitor.
        """
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise PatchNameError("The chosen patches are no list of names. Tick them on the page.")
        if len(labels) > MOST_STACKED:
            raise PatchNameError(f"{len(labels)} patches; at most {MOST_STACKED} are put in front of a text here.")
        if len(set(labels)) < len(labels):
            raise PatchNameError("A patch was named twice. Tick each once.")
        offered = self.offered(visitor)
        missing = [label for label in labels if label not in offered]
        if missing:
            raise PatchNameError(f"`{missing[0][:100]}` is not in memory any more. Add it again.")
        return [offered[label] for label in labels]

    def stack(self, labels: list[str], visitor: str | None = None) -> str | tuple[str, ...]:
        """Return what `patch_names` wants for a row with these patches. Raises as `chosen`."""
        return tuple(one.name for one in self.chosen(labels, visitor)) or "__base__"

    def wrapper(self, labels: list[str], visitor: str | None = None) -> PolicyPatchModel:
        """Return a model of its own around the same base, with these patches as its active stack."""
        chosen = self.chosen(labels, visitor)
        model = PolicyPatchModel(self.model.get_base_model())
        for one in chosen:
            model.load_patch(one.location.folder, one.name, tokenizer=self.tokenizer)
        if chosen:
            model.set_patch([one.name for one in chosen])
        return model.eval()


class Served:
    """Loads the base and its patches when first asked, once.

    Args:
        base (`str`):
            Hub id or folder of a causal language model, or `lab:base`.
        patches (`list[str]`):
            Folders or Hub ids (`org/tox-patch@v1.0.0`); of the lab `lab:<risk>`.
        base_may_change (`bool`, *optional*, defaults to `False`):
            Visitors may load another base from the Hub, for all.
    """

    def __init__(self, base: str, patches: list[str], *, base_may_change: bool = False) -> None:
        self.base, self.base_may_change = shown_name(base), base_may_change
        self.visitors, self.scratch = Visitors(), Scratch()
        self._given = (base, list(patches))
        for source in (base, *patches):
            if shown_name(source) != source:
                hide_folder(source)
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
                    self._loaded = _load(*self._given, self.scratch)
                loaded = self._loaded
        return loaded

    def add(self, source: str, visitor: str | None = None) -> str:
        """Load one more patch for one visitor, and return its label.

        Args:
            source (`str`):
                What the visitor typed: a strict Hub id, or `lab:<risk>`.
            visitor (`str`, *optional*):
                Session of the visitor; without one only the page's own patches can be named.

        Raises:
            PatchNameError: no such source, or no session.
            BusyError: as many patches as may be.
            PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: as [`Guests.add`].
        """
        wanted = wanted_patch(source)
        loaded = self.get()
        return wanted.label if wanted.label in loaded.patches else loaded.guests.add(wanted, visitor)

    def change_base(self, base: str, patches: list[str]) -> Loaded:
        """Put another base in memory, for all; the old one stays if the new one cannot be loaded.

        Raises:
            ModelLoadError: the base of this page is fixed, or the new one is not open to everybody or cannot be loaded.
            PatchNameError, PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: as [`Served.add`].
        """
        if not self.base_may_change:
            raise ModelLoadError("The base of this page is fixed. Run it yourself: `policy-patch demo --ui`.")
        name, revision = wanted_base(base)
        wanted = [wanted_patch(source) for source in patches[:MOST_STACKED]]
        if not name.startswith("lab:"):
            revision = _public_model(name, revision)
        loaded, fetched = _load(name, [], self.scratch, revision=revision), []
        try:
            for one in wanted:
                if one.risk:
                    _put(loaded, one.label, _located(f"lab:{one.risk}"))
                else:
                    fetched.append(self.scratch.new(held=True))
                    commit, size = public_commit(one.repo_id, one.revision), embedding_size(loaded.model)
                    fetch_patch(one.repo_id, commit, fetched[-1], hidden_size=size)
                    _put(loaded, one.label, PatchLocation(fetched[-1], one.repo_id, commit))
        except BaseException:
            for folder in fetched:
                self.scratch.remove(folder)
            raise
        with self._lock:
            old, self.base, self._loaded = self._loaded, name, loaded
        if old is not None:
            old.guests.close()
        return loaded


def shown_name(source: str) -> str:
    """Return what visitors see of a base or a patch that the page was started with: of a folder its name alone."""
    if os.path.isdir(source) or os.path.isabs(source) or source.startswith((".", "~")):
        return os.path.basename(os.path.abspath(source)) or "folder"
    return source


def _load(base: str, patches: list[str], scratch: Scratch, *, revision: str | None = None) -> Loaded:
    if base.startswith("lab:"):
        torch.set_num_threads(1)  # of each visitor: on a miniature more would only wait for each other
    model, tokenizer = _base_of(base, revision)
    wrapper = PolicyPatchModel(model).eval()
    loaded = Loaded(shown_name(base), wrapper, tokenizer, _scorer_of(base), Guests(wrapper, tokenizer, scratch))
    for source in patches:
        _put(loaded, shown_name(source).removeprefix("lab:"), _located(source))
    return loaded


def _base_of(name: str, revision: str | None = None) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from policy_patch.recipes.models import load_model

    if not name:
        raise ModelLoadError("No base was named. Give a Hub id, or `lab:base`.")
    return load_model(name, revision=revision)


def _scorer_of(base: str) -> Any:
    if base.startswith("lab:"):
        from policy_patch.lab import LabInsultScorer

        return LabInsultScorer()
    return load_scorer("lexical")


def _public_model(name: str, revision: str | None) -> str:
    """Return the commit of a base that a visitor may load: one on the Hub that is open to everybody."""
    refused = f"Cannot load the model `{name}`: no such model is open to everybody on the Hub."
    if os.path.isdir(name):  # transformers would take a folder of this name for it
        raise ModelLoadError(refused)
    try:
        return public_commit(name, revision)
    except HubError as error:
        raise ModelLoadError(f"{refused} Give others when the page is started: `policy-patch demo --ui`.") from error


def _located(source: str) -> PatchLocation:
    """Return where a patch of the page's own lies."""
    from policy_patch.lab import lab_patch_folder

    if source.startswith("lab:"):
        return PatchLocation(lab_patch_folder(source.removeprefix("lab:")))
    return locate_patch(source, HubOptions())


def _put(loaded: Loaded, label: str, location: PatchLocation) -> None:
    """Load a patch of the page's own; two folders of the same name get different labels."""
    label = _free(label, loaded.patches)
    name = _free(re.sub(r"\W", "-", label).strip("-") or "patch", {one.name for one in loaded.patches.values()})
    loaded.model.load_patch(location.folder, name, tokenizer=loaded.tokenizer)
    loaded.patches[label] = Offered(label, name, location)


def _free(name: str, taken: Any) -> str:
    if name not in taken:
        return name
    return next(f"{name}-{number}" for number in range(2, 2 + len(taken) + 1) if f"{name}-{number}" not in taken)
