"""A base with patches by their names: found and read first, because loading a base takes minutes, then loaded.

What is done with the patched model is settled by the recipe or the command that opened it.
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

PATCHES_HELP = "Folders of patches, or Hub ids like org/tox-patch@v1.2.0, in the order of the stack."
MISMATCH_HELP = "Accept a base that was fine-tuned since the patch was made."


@dataclass(frozen=True, kw_only=True)
class FoundPatches:
    """Patches whose files are here.

    Args:
        names (`list[str]`):
            As they were given.
        ids (`list[str]`):
            What loads them: a folder, or a repository at one commit.
        configs (`list[PolicyPatchConfig]`):
            What they are.
        base (`str`):
            Name of the base they are for.
        revision (`str`, *optional*):
            Its revision.
    """

    names: list[str]
    ids: list[str]
    configs: list[PolicyPatchConfig]
    base: str
    revision: str | None


def find_patches(patches: Sequence[str], base: str | None) -> FoundPatches:
    """Return the patches, read, and the name of their base: the given one, or the one that the first of them names.

    Raises:
        ModelLoadError: no patch names a base, and none is given; or it is served elsewhere.
        PatchNotFoundError, ConfigError, PatchFileError, HubError: as `PolicyPatchModel.from_pretrained`.
    """
    from policy_patch.hub.fetch import locate_patch
    from policy_patch.patch.folder import read_patch_folder

    locations = [locate_patch(patch) for patch in patches]
    configs = [read_patch_folder(location.folder)[0] for location in locations]
    name, revision = base or configs[0].base_model_name_or_path, None if base else configs[0].base_model_revision
    if name is None:
        raise ModelLoadError(f"`{patches[0]}` names no base. Say which with `--base`, in Python with `base=`.")
    check_has_weights(name)
    ids = [f"{one.repo_id}@{one.commit}" if one.commit else str(one.folder) for one in locations]
    return FoundPatches(names=list(patches), ids=ids, configs=configs, base=name, revision=revision)


def load_patched(
    found: FoundPatches, *, device: str | None, dtype: str, allow_base_mismatch: bool = False, on_note: Note = ignore
) -> tuple["PolicyPatchModel", "PreTrainedTokenizerBase"]:
    """Return the base with the patches as its active stack, and its tokenizer.

    Raises:
        ModelLoadError: the base cannot be loaded.
        BaseMismatchError: a patch is for another base.
    """
    from policy_patch.model.files import distinct_names
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
