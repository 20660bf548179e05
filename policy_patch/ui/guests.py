"""The patches that visitors added. Only the visitors who named a patch see it.

`fetching.py` fetches these patches; `served.py` holds the patches that every visitor sees.
"""

import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from policy_patch.base.supported import embedding_size
from policy_patch.errors import PatchNameError, PolicyPatchError
from policy_patch.hub.fetch import PatchLocation
from policy_patch.lab import lab_patch_folder
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.ui.fetching import fetch_patch, public_commit
from policy_patch.ui.paths import named
from policy_patch.ui.scratch import Scratch
from policy_patch.ui.sources import Wanted
from policy_patch.ui.visitors import BusyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_PATCHES = 256  # for all visitors together
MOST_OWN = 8  # for one visitor
IDLE_SECONDS = 900.0  # without a request: if the page is full, the visitor's patches are then removed for others
KEPT_SECONDS = 3600.0  # without a request: the visitor's patches are then always removed

_Key = tuple[str, str]  # ("lab", risk), ("trained", folder) or (repository, commit)


@dataclass(frozen=True)
class Offered:
    """A patch that a visitor may choose.

    Args:
        label (`str`):
            The name that visitors see: `lab:<risk>`, a Hub id, or `trained:<risk>`.
        name (`str`):
            The patch's name in the model.
        location ([`PatchLocation`]):
            Where its files are.
    """

    label: str
    name: str
    location: PatchLocation


@dataclass
class _Visitor:
    seen: float
    patches: dict[str, _Key] = field(default_factory=dict)


class Guests:
    """Visitors' patches in one model. A patch that several visitors named is in memory once.

    Args:
        model ([`PolicyPatchModel`]):
            The model that the patches are loaded into, beside the page's own.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        scratch ([`Scratch`]):
            The folder that their files are written to.
    """

    def __init__(self, model: PolicyPatchModel, tokenizer: "PreTrainedTokenizerBase", scratch: Scratch) -> None:
        self._model, self._tokenizer, self._scratch = model, tokenizer, scratch
        self._patches: dict[_Key, Offered] = {}
        self._visitors: dict[str, _Visitor] = {}
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def of(self, visitor: str | None) -> dict[str, Offered]:
        """Return the patches that this visitor added, by label."""
        with self._lock:
            known = self._visitors.get(visitor or "")
            if known is None:
                return {}
            known.seen = time.monotonic()
            return {label: self._patches[key] for label, key in known.patches.items()}

    def add(self, wanted: Wanted, visitor: str | None) -> str:
        """Load a patch for one visitor and return its label.

        Raises:
            BusyError: the visitor or the page has reached the limit of patches.
            PatchNameError: the request has no session.
            PatchNotFoundError, PatchFileError, ConfigError, BaseMismatchError, HubError: see [`fetch_patch`] and
                [`PolicyPatchModel.load_patch`].
        """
        if not visitor:
            raise PatchNameError("The request has no session, so nobody could use the patch. Open the page first.")
        self._check_own(visitor, wanted.label)
        if wanted.risk is not None:
            key = ("lab", wanted.risk)
            self._insert(key, wanted.label, visitor, lambda: PatchLocation(lab_patch_folder(wanted.risk)))
            return wanted.label
        key = (wanted.repo_id, public_commit(wanted.repo_id, wanted.revision))
        with self._lock:
            if key in self._patches:
                self._own(key, wanted.label, visitor)
                return wanted.label
        folder = self._scratch.new(held=True)
        try:
            fetch_patch(*key, folder, hidden_size=embedding_size(self._model.get_base_model()))
            if not self._insert(key, wanted.label, visitor, lambda: PatchLocation(folder, *key)):
                self._scratch.remove(folder)  # another visitor was faster
        except PolicyPatchError as error:
            self._scratch.remove(folder)
            said = str(error).replace(str(folder), wanted.label)
            raise type(error)(said) from error
        except BaseException:
            self._scratch.remove(folder)
            raise
        return wanted.label

    def keep(self, folder: Path, label: str, visitor: str | None) -> str:
        """Load a copy of a patch that this visitor trained here, and return its label. A second call returns the same.

        Args:
            folder (`Path`):
                The folder with the two files of the patch and nothing else. It may be removed afterwards.
            label (`str`):
                The wanted label; the visitor's second patch of this label gets a number.
            visitor (`str`, *optional*):
                The visitor.

        Raises:
            BusyError, PatchNameError: as for `add`.
            PatchFileError, SignatureError: the folder holds no patch, or none that a policy allows.
            BaseMismatchError: the patch was trained for another base.
        """
        if not visitor:
            raise PatchNameError("The request has no session, so nobody could use the patch. Open the page first.")
        key = ("trained", str(folder))
        with self._lock:
            own = dict(known.patches) if (known := self._visitors.get(visitor)) else {}
        for mine, at in own.items():
            if at == key:
                return mine
        label = next(name for number in range(1, MOST_OWN + 2) if (name := _numbered(label, number)) not in own)
        self._check_own(visitor, label)
        copied = self._scratch.new(held=True)
        try:
            shutil.copytree(folder, copied, dirs_exist_ok=True)
            self._insert(key, label, visitor, lambda: PatchLocation(copied))
        except BaseException:
            self._scratch.remove(copied)
            raise
        return label

    def close(self) -> None:
        """Forget all visitors, and remove the files of their patches."""
        with self._lock:
            self._visitors.clear()
            self._forget_ownerless()

    def _insert(self, key: _Key, label: str, visitor: str, locate: Callable[[], PatchLocation]) -> bool:
        """Load a patch unless it is in memory. Return whether it was loaded."""
        with self._loading:  # meanwhile other visitors can use the patches in memory
            with self._lock:
                new = key not in self._patches
                if new:
                    self._make_room()
            if new:
                name, location = f"guest-{secrets.token_hex(8)}", locate()
                with named(location.folder, label):
                    self._model.load_patch(location, name, tokenizer=self._tokenizer)
            with self._lock:
                if new:
                    self._patches[key] = Offered(label, name, location)
                try:
                    self._own(key, label, visitor)
                except PolicyPatchError:
                    self._forget_ownerless()
                    raise
            return new

    def _check_own(self, visitor: str, label: str) -> None:
        patches = known.patches if (known := self._visitors.get(visitor)) else {}
        if label not in patches and len(patches) >= MOST_OWN:
            raise BusyError(
                f"You have added {MOST_OWN} patches, the most for one visitor. Reload the page to start again."
            )

    def _own(self, key: _Key, label: str, visitor: str) -> None:
        self._check_own(visitor, label)
        known = self._visitors.setdefault(visitor, _Visitor(time.monotonic()))
        known.seen = time.monotonic()
        known.patches[label] = key
        self._forget_ownerless()  # the label may have named an older commit

    def _make_room(self) -> None:
        self._forget_visitors(KEPT_SECONDS, 0)
        if len(self._patches) >= MOST_PATCHES:
            self._forget_visitors(IDLE_SECONDS, MOST_PATCHES - 1)
        if len(self._patches) >= MOST_PATCHES:
            raise BusyError(
                f"The page holds {MOST_PATCHES} patches of its visitors, the most it can. Try again in a while, or run "
                "the page yourself: `policy-patch demo --ui`."
            )

    def _forget_visitors(self, idle_seconds: float, most_patches: int) -> None:
        """Forget idle visitors, the longest idle first, until at most `most_patches` patches are left."""
        latest = time.monotonic() - idle_seconds
        for visitor in sorted(self._visitors, key=lambda one: self._visitors[one].seen):
            if len(self._patches) <= most_patches or self._visitors[visitor].seen > latest:
                return
            del self._visitors[visitor]
            self._forget_ownerless()

    def _forget_ownerless(self) -> None:
        owned = {key for visitor in self._visitors.values() for key in visitor.patches.values()}
        for key in [key for key in self._patches if key not in owned]:
            gone = self._patches.pop(key)
            self._model.delete_patch(gone.name)
            self._scratch.remove(gone.location.folder)


def _numbered(label: str, number: int) -> str:
    return label if number == 1 else f"{label}-{number}"
