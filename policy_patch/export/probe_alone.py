"""Writes the probe of patches alone, for a server that was set up without an export of ours.

Every export and baked checkpoint holds a probe already; what it records is in `policy_patch.answers.served_probe`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from policy_patch.answers.served_probe import PROBE_NAME, alike, record_probe
from policy_patch.base.loading import load_errors, load_pretrained
from policy_patch.errors import ExportError
from policy_patch.export.formats import Exported
from policy_patch.export.new_folder import new_folder
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.named_patch import base_of, load_named_patches
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.privacy.local_names import lab_folder, lab_tokenizer_folder


def export_probe(
    patches: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    hub: HubOptions | None = None,
    chat_template: str | None = None,
    dtype: str = "auto",
) -> Exported:
    """Write `policy_patch_probe.json`: what the base predicts without a patch, with each one, and with all as a stack.

    Args:
        patches (`Sequence[str | os.PathLike]`):
            Folders or Hub ids, each maybe with a name and `=` before it. The first one is what a server should have.
        output_dir (`str` or `os.PathLike`):
            A new or an empty folder.
        base (`str` or `os.PathLike`, *optional*):
            Folder or Hub id of the base. Defaults to what the patches name.
        hub ([`HubOptions`], *optional*):
            Token, cache and so on.
        chat_template (`str`, *optional*):
            File with the server's chat template, in place of the tokenizer's own.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Type of the base's weights while it is measured: "auto" (as stored), float32, bfloat16 or float16.

    Raises:
        ExportError: an unknown dtype, or a chat template that cannot be read.
        BaseMismatchError: a patch of another base.
        PolicyPatchError: a patch or the base cannot be read, or the folder cannot be written.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ExportError(f"`dtype={dtype!r}`: expected auto, float32, bfloat16 or float16.")
    hub = hub or HubOptions()
    named = load_named_patches(patches, hub)
    name, revision = base_of(named, base)
    try:
        template = None if chat_template is None else Path(chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"The chat template `{chat_template}` cannot be read: {error}.") from error
    given = {"revision": revision, "token": hub.token, "cache_dir": hub.cache_dir}
    given = {key: value for key, value in given.items() if value is not None}
    place = lab_folder(name) or name
    with load_errors(f"the tokenizer of `{name}`"):
        tokenizer = AutoTokenizer.from_pretrained(lab_tokenizer_folder(name) or place, **given)
    model = load_pretrained(AutoModelForCausalLM, place, dtype=dtype, **given).eval()
    own = {one.name: f"patch_{number}" for number, one in enumerate(named)}  # names in a model have no dots
    patched = PolicyPatchModel.from_pretrained(
        model, [one.folder for one in named], list(own.values()), tokenizer=tokenizer, activate=False
    )
    stacks = {one.name: [own[one.name]] for one in named}
    if len(named) > 1:
        stacks["+".join(stacks)] = list(own.values())
    with new_folder(output_dir) as folder:
        found = record_probe(
            patched, tokenizer, folder, stacks=stacks, chat_template=template,
            shown={inside: outside for outside, inside in own.items()},
        )  # fmt: skip
    facts = {"patches": [one.facts() for one in named], "asks": list(found.rows), "cannot_tell": alike(found)}
    return Exported(
        Path(output_dir), (PROBE_NAME,), facts, f"Ask a server: policy-patch probe URL --patch {os.fspath(output_dir)}"
    )
