"""Finds patches by their names, and loads their base with them.

Patches are read first, because loading a base takes minutes: a wrong name is then found at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import ModelLoadError
from policy_patch.recipes.models import check_has_weights, load_model
from policy_patch.recipes.recipe import Note, ignore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from policy_patch.model.patched_model import PolicyPatchModel

PATCHES_HELP = "Folders of patches, Hub ids like org/tox-patch@v1.2.0, or lab:toxicity, in the order of the stack."
MISMATCH_HELP = "Accept a base that was fine-tuned since the patch was made."


@dataclass(frozen=True, kw_only=True)
class FoundPatches:
    """Patches whose files are on this machine, and the name of their base.

    Args:
        names (`list[str]`):
            Names of the patches, as the user gave them.
        ids (`list[str]`):
            Ids for `PolicyPatchModel.from_pretrained`: a folder, or a repository at one commit.
        configs (`list[PolicyPatchConfig]`):
            Configurations of the patches.
        base (`str`):
            Name of the base.
        revision (`str`, *optional*):
            Revision of the base on the Hub.
    """

    names: list[str]
    ids: list[str]
    configs: list[PolicyPatchConfig]
    base: str
    revision: str | None

    @property
    def filtered_by(self) -> list[str]:
        """The scorers that filtered the training pairs of any of the patches."""
        return [name for config in self.configs for name in config.filtered_by or ()]


def find_patches(patches: Sequence[str], base: str | None) -> FoundPatches:
    """Fetch and read patches, and determine the name of their base.

    Args:
        patches (`Sequence[str]`):
            Folders or Hub ids, at least one.
        base (`str`, *optional*):
            Name of the base. Defaults to the base that the first patch names, at its revision.

    Raises:
        ModelLoadError: no base is given and the first patch names none, or the base is an endpoint.
        PatchNotFoundError, ConfigError, PatchFileError, HubError: as `PolicyPatchModel.from_pretrained`.
    """
    from policy_patch.hub.opening import open_patch

    opened = [open_patch(patch) for patch in patches]
    configs = [one.config for one in opened]
    name, revision = base or configs[0].base_model_name_or_path, None if base else configs[0].base_model_revision
    if name is None:
        raise ModelLoadError(f"`{patches[0]}` names no base. Give one with `--base`, or with `base=` in Python.")
    check_has_weights(name)
    locations = [one.location for one in opened]
    ids = [f"{one.repo_id}@{one.commit}" if one.commit else str(one.folder) for one in locations]
    return FoundPatches(names=list(patches), ids=ids, configs=configs, base=name, revision=revision)


def load_patched(
    found: FoundPatches, *, device: str | None, dtype: str, allow_base_mismatch: bool = False, on_note: Note = ignore
) -> tuple["PolicyPatchModel", "PreTrainedTokenizerBase"]:
    """Load the base with the patches as its active stack, and its tokenizer.

    Args:
        found ([`FoundPatches`]):
            Patches and base.
        device, dtype (`str`):
            As in [`load_model`].
        allow_base_mismatch (`bool`, *optional*, defaults to `False`):
            Accept a base that was fine-tuned since the patch was made.
        on_note (`Callable[[str], None]`, *optional*):
            Called with a sentence that says which base is loaded.

    Returns:
        The patched model, in eval mode, and the tokenizer.

    Raises:
        ModelLoadError: the base cannot be loaded.
        BaseMismatchError: a patch is for another base.
    """
    from policy_patch.model.ids import distinct_names
    from policy_patch.model.patched_model import PolicyPatchModel

    on_note(f"Loading {found.base} ...")
    model, tokenizer = load_model(found.base, device=device, dtype=dtype, revision=found.revision)
    patched = PolicyPatchModel.from_pretrained(
        model,
        found.ids,
        distinct_names(found.names),
        tokenizer=tokenizer,
        allow_base_mismatch=allow_base_mismatch,
    )
    return patched.eval(), tokenizer
