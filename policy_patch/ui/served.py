"""The models that the page serves: one base in memory, the page's own patches, and the patches that visitors add.

Nothing is loaded before the first request, so that the page opens at once. All visitors share the base; each request
names its own stack. The page's own patches are fixed when it starts: no visitor can add or remove one.
"""

import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from policy_patch.base.supported import embedding_size
from policy_patch.errors import HubError, ModelLoadError, PatchNameError
from policy_patch.evaluation import load_scorer
from policy_patch.hub.fetch import PatchLocation
from policy_patch.hub.opening import open_patch
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.ui.fetching import fetch_patch, public_commit
from policy_patch.ui.guests import Guests, Offered
from policy_patch.ui.paths import hide_folder, named
from policy_patch.ui.scratch import Scratch
from policy_patch.ui.sources import wanted_base, wanted_patch
from policy_patch.ui.visitors import Visitors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_STACKED = 8  # patches in one stack


@dataclass
class Loaded:
    """The base and the patches in memory.

    Args:
        base (`str`):
            The name of the base that visitors see: a Hub id, `lab:base`, or the last part of a folder's path.
        model ([`PolicyPatchModel`]):
            The base with all patches that visitors may choose.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        scorer ([`Scorer`]):
            Scores the answers for the badges.
        guests ([`Guests`]):
            The patches that visitors added.
        patches (`dict[str, Offered]`):
            The page's own patches, by label.
    """

    base: str
    model: PolicyPatchModel
    tokenizer: "PreTrainedTokenizerBase"
    scorer: Any
    guests: Guests
    patches: dict[str, Offered] = field(default_factory=dict)

    def offered(self, visitor: str | None = None) -> dict[str, Offered]:
        """Return the patches that this visitor may use, by label: the page's own and the visitor's."""
        return {**self.guests.of(visitor), **self.patches}

    def chosen(self, labels: list[str], visitor: str | None = None) -> list[Offered]:
        """Return the patches with these labels, in the same order.

        Raises:
            PatchNameError: there are too many labels, a label occurs twice, or this visitor has no such patch.
        """
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise PatchNameError("The chosen patches are not a list of names. Tick them on the page.")
        if len(labels) > MOST_STACKED:
            raise PatchNameError(f"{len(labels)} patches; a stack has at most {MOST_STACKED} on this page.")
        if len(set(labels)) < len(labels):
            raise PatchNameError("A patch was named twice. Tick each once.")
        offered = self.offered(visitor)
        missing = [label for label in labels if label not in offered]
        if missing:
            raise PatchNameError(f"`{missing[0][:100]}` is not in memory any more. Add it again.")
        return [offered[label] for label in labels]

    def stack(self, labels: list[str], visitor: str | None = None) -> str | tuple[str, ...]:
        """Return the value of `patch_names` for a row with these patches. Raises the same errors as `chosen`."""
        return tuple(one.name for one in self.chosen(labels, visitor)) or "__base__"

    def wrapper(self, labels: list[str], visitor: str | None = None) -> PolicyPatchModel:
        """Return a new model on the same base, with these patches as its active stack."""
        chosen = self.chosen(labels, visitor)
        model = PolicyPatchModel(self.model.get_base_model())
        for one in chosen:
            model.load_patch(one.location, one.name, tokenizer=self.tokenizer)
        if chosen:
            model.set_patch([one.name for one in chosen])
        return model.eval()


class Served:
    """Loads the base and the page's own patches once, at the first request.

    Args:
        base (`str`):
            Hub id or folder of a causal language model, or `lab:base`.
        patches (`list[str]`):
            Folders or Hub ids (`org/tox-patch@v1.0.0`), or `lab:<risk>` for a patch of the lab.
        base_may_change (`bool`, *optional*, defaults to `False`):
            Whether a visitor may load another base from the Hub, which then replaces the base for all visitors.
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
        """Return whether the base is in memory, so that `get` returns at once."""
        return self._loaded is not None

    def get(self) -> Loaded:
        """Return the base and the patches in memory. The first call loads them.

        Raises:
            ModelLoadError: the base cannot be loaded.
            PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: a patch cannot be loaded.
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
                The visitor's input: a valid Hub id, or `lab:<risk>`.
            visitor (`str`, *optional*):
                Session of the visitor; without a session only the page's own patches can be named.

        Raises:
            PatchNameError: `source` is neither, or the request has no session.
            BusyError: the limit of patches is reached.
            PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: see [`Guests.add`].
        """
        wanted = wanted_patch(source)
        loaded = self.get()
        return wanted.label if wanted.label in loaded.patches else loaded.guests.add(wanted, visitor)

    def add_trained(self, folder: Path, risk: str, visitor: str | None) -> str:
        """Load a patch that a visitor trained on the page, for this visitor, and return its label.

        Args:
            folder (`Path`):
                The folder with the two files of the patch and nothing else. They are copied.
            risk (`str`):
                The risk that it lowers.
            visitor (`str`, *optional*):
                Session of the visitor.

        Raises:
            BaseMismatchError: the page shows another base than the one that the patch was trained for.
            BusyError: the limit of patches is reached.
            PatchNameError, PatchFileError: see [`Guests.keep`].
        """
        return self.get().guests.keep(folder, f"trained:{risk}", visitor)

    def change_base(self, base: str, patches: list[str]) -> Loaded:
        """Load another base for all visitors. The old one stays if the new one cannot be loaded.

        Raises:
            ModelLoadError: the base of this page is fixed, or the new base is not public or cannot be loaded.
            PatchNameError, PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: see [`Served.add`].
        """
        if not self.base_may_change:
            raise ModelLoadError("The base of this page is fixed. Run the page yourself: `policy-patch demo --ui`.")
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
    """Return the name that visitors see for a base or a patch of the page. For a folder this is its last part only."""
    if os.path.isdir(source) or os.path.isabs(source) or source.startswith((".", "~")):
        return os.path.basename(os.path.abspath(source)) or "folder"
    return source


def _load(base: str, patches: list[str], scratch: Scratch, *, revision: str | None = None) -> Loaded:
    if base.startswith("lab:"):
        torch.set_num_threads(1)  # per request: on a miniature model more threads would only wait for each other
    model, tokenizer = _base_of(base, revision)
    wrapper = PolicyPatchModel(model).eval()
    loaded = Loaded(shown_name(base), wrapper, tokenizer, _scorer_of(base), Guests(wrapper, tokenizer, scratch))
    for source in patches:
        _put(loaded, shown_name(source), _located(source))
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
    """Return the commit of a base that a visitor may load, which is a public one on the Hub."""
    refused = f"Cannot load the model `{name}`: the Hub has no public model of this name."
    if os.path.isdir(name):  # transformers would load this folder instead
        raise ModelLoadError(refused)
    try:
        return public_commit(name, revision)
    except HubError as error:
        raise ModelLoadError(
            f"{refused} Give a private or gated one when you start the page: `policy-patch demo --ui --base`."
        ) from error


def _located(source: str) -> PatchLocation:
    """Return where the files of one of the page's own patches are."""
    from policy_patch.lab import lab_patch_folder

    if source.startswith("lab:"):
        return PatchLocation(lab_patch_folder(source.removeprefix("lab:")))
    with named(source, shown_name(source)):
        return open_patch(source).location


def _put(loaded: Loaded, label: str, location: PatchLocation) -> None:
    """Load one of the page's own patches. Two folders with the same name get different labels."""
    label = _free(label, loaded.patches)
    name = _free(re.sub(r"\W", "-", label).strip("-") or "patch", {one.name for one in loaded.patches.values()})
    with named(location.folder, label):
        loaded.model.load_patch(location, name, tokenizer=loaded.tokenizer)
    loaded.patches[label] = Offered(label, name, location)


def _free(name: str, taken: Any) -> str:
    if name not in taken:
        return name
    return next(f"{name}-{number}" for number in range(2, 2 + len(taken) + 1) if f"{name}-{number}" not in taken)
