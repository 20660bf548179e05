"""Writes what vLLM needs to serve patches on the unmodified base: a chat template, messages, and how to start it.

The vectors go into each request (`policy_patch.serving`); vLLM itself only gets flags and the chat template.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from policy_patch.answers.served_probe import PROBE_NAME, record_probe
from policy_patch.base.loading import load_pretrained
from policy_patch.base.served_base import ServedBase, read_served_base
from policy_patch.errors import ExportError
from policy_patch.export.formats import Exported
from policy_patch.export.new_folder import new_folder
from policy_patch.export.vllm_chat_template import vllm_chat_template
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.named_patch import NamedPatch, base_of, load_named_patches
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.patch.prompt_embeds import Stack, encoded_embeds, stack_of
from policy_patch.patch.stack_check import check_stack
from policy_patch.privacy.local_names import lab_folder, without_folders
from policy_patch.trust.stack_policy import on_conflict_in_force

TEMPLATE_NAME, MANIFEST_NAME, README_NAME = "chat_template.jinja", "policy_patch_export.json", "README.md"
_LARGEST_TEMPLATE = 2**20  # bytes; our choice
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_BLOCK = 16  # tokens of a cache block: vLLM's default on GPUs; 32 or 128 elsewhere


def export_prompt_embeds(
    patches: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    hub: HubOptions | None = None,
    dtype: str | None = None,
    chat: bool = True,
    chat_template: str | None = None,
    prompt: str = "Once upon a time",
    probe: bool = True,
    on_conflict: str = "warn",
) -> Exported:
    """Write patches for vLLM with the unmodified base: each request carries its patch as prompt embeddings.

    Args:
        patches (`Sequence[str | os.PathLike]`):
            Folders or Hub ids, each maybe with a name: `"tox=org/tox-patch@v1.2.0"`. Several can be served apart and
            as stacks.
        output_dir (`str` or `os.PathLike`):
            A new or empty folder. It gets `chat_template.jinja` (start vLLM with it), for each patch
            `<name>.chat.json` (the message that carries it) and `<name>.completion.json` (a whole request, for a
            try), `policy_patch_export.json` (what is in the folder), `policy_patch_probe.json` and a `README.md`.
        base (`str` or `os.PathLike`, *optional*):
            Folder or Hub id of the base. Defaults to what the patches name.
        hub ([`HubOptions`], *optional*):
            Token, cache and so on.
        dtype (`str`, *optional*):
            What vLLM serves the base with: float32, float16 or bfloat16. Defaults to the dtype of its configuration.
        chat (`bool`, *optional*, defaults to `True`):
            Write the chat template. A base without one can only complete text.
        chat_template (`str`, *optional*):
            File with the base's chat template, in place of the tokenizer's own.
        prompt (`str`, *optional*, defaults to `"Once upon a time"`):
            What the requests of `<name>.completion.json` continue.
        probe (`bool`, *optional*, defaults to `True`):
            Load the base, compare it with the patches' fingerprints and record what it predicts with each patch, so
            that `policy-patch probe` can check the server. Without it, only sizes and tokenizer are compared.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What follows if all patches together break a rule of one of them.

    Returns:
        [`Exported`]: the folder and its files.

    Raises:
        ExportError: a chat template that cannot be proved, an unknown dtype, or a folder that cannot be written.
        BaseMismatchError: a patch of another base.
        UnsupportedModelError: a base whose embeddings are not known to be what vLLM takes.
        PolicyPatchError: a patch or the base cannot be read.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ExportError(f"`dtype={dtype!r}`: expected one of {', '.join(_DTYPES)}.")
    hub = hub or HubOptions()
    options = {"token": hub.token, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only or None}
    named = load_named_patches(patches, hub)
    name, revision = base_of(named, base)
    served = read_served_base(name, revision=revision, dtype=_DTYPES.get(dtype or ""), **options)
    stacks: dict[str, Stack] = {}
    for one in named:
        served.check_patch(one.config, one.vectors, f"The patch `{one.name}`")
        stacks[one.name] = stack_of({one.name: (one.config, one.vectors)}, served.rows.dtype, on_conflict="ignore")
    check_stack([one.member for one in named], on_conflict=lambda: on_conflict_in_force(on_conflict))
    everything = {one.name: (one.config, one.vectors) for one in named}
    all_of_them = stack_of(everything, served.rows.dtype, on_conflict="ignore")
    template = vllm_chat_template(served.tokenizer, all_of_them, _read(chat_template)) if chat else None
    manifest = _manifest(named, served, revision, chat=chat)
    with new_folder(output_dir) as folder:
        if probe:
            _record(named, served, revision, folder, chat=chat, template=_read(chat_template), options=options)
        files = _files(stacks, served, template, prompt, manifest)
        files[README_NAME] = _readme(manifest, template is not None, probe)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        written = sorted(path.name for path in folder.iterdir())
    return Exported(
        Path(output_dir), tuple(written), manifest, f"How to serve it is in {Path(output_dir, README_NAME)}."
    )


def _read(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        if os.path.getsize(file) > _LARGEST_TEMPLATE:
            raise ExportError(f"`{file}` has more than {_LARGEST_TEMPLATE:,} bytes; expected a chat template.")
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"The chat template `{file}` cannot be read: {error}.") from error


def _manifest(named: Sequence[NamedPatch], served: ServedBase, revision: str | None, *, chat: bool) -> dict[str, Any]:
    return {
        "format_version": 1,
        "base": without_folders(served.name),
        "base_revision": revision,
        "dtype": str(served.rows.dtype).removeprefix("torch."),
        "chat": chat,
        "patches": [one.facts() for one in named],
    }


def _record(
    named: Sequence[NamedPatch],
    served: ServedBase,
    revision: str | None,
    folder: Path,
    *,
    chat: bool,
    template: str | None,
    options: Mapping[str, Any],
) -> None:
    """Write the probe: what the base predicts with each patch alone, and with all of them as a stack."""
    from transformers import AutoModelForCausalLM

    given = {key: value for key, value in {**options, "revision": revision}.items() if value is not None}
    place = lab_folder(served.name) or served.name
    base = load_pretrained(AutoModelForCausalLM, place, dtype=served.rows.dtype, trust_remote_code=False, **given)
    own = {one.name: one.name.replace(".", "_") for one in named}  # names in a model may not have dots
    model = PolicyPatchModel.from_pretrained(
        base.eval(), [one.folder for one in named], list(own.values()), tokenizer=served.tokenizer,
        activate=False,
    )  # fmt: skip
    shown = {inside: name for name, inside in own.items()}
    stacks = {one.name: [own[one.name]] for one in named}
    if len(named) > 1:
        stacks["+".join(stacks)] = list(own.values())
    if chat:
        record_probe(model, served.tokenizer, folder, stacks=stacks, chat_template=template, shown=shown)
    else:
        tokenizer = served.tokenizer
        before, tokenizer.chat_template = tokenizer.chat_template, None
        try:
            record_probe(model, tokenizer, folder, stacks=stacks, shown=shown)
        finally:
            tokenizer.chat_template = before


def _files(
    stacks: Mapping[str, Stack], served: ServedBase, template: str | None, prompt: str, manifest: Mapping[str, Any]
) -> dict[str, str]:
    files = {MANIFEST_NAME: _json(manifest)}
    if template is not None:
        files[TEMPLATE_NAME] = template
    for name, stack in stacks.items():
        embeds = encoded_embeds(stack.embedded(served.ids(prompt), served.rows))
        files[f"{name}.completion.json"] = _json(
            {
                "model": manifest["base"],
                "prompt": None,  # an empty text would be a second, empty prompt
                "prompt_embeds": embeds,
                "max_tokens": 32,
                "temperature": 0,
            }
        )
        if template is not None:
            files[f"{name}.chat.json"] = _json(stack.chat_message())
    return files


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _readme(manifest: Mapping[str, Any], chat: bool, probe: bool) -> str:
    base, dtype = manifest["base"], manifest["dtype"]
    is_local = "/" not in base or ":" in base
    place = "FOLDER_OF_THE_BASE" if is_local else base
    named = f" --served-model-name {base}" if is_local else ""
    probed = " --probe ." if probe else ""
    names = [one["name"] for one in manifest["patches"]]
    rows = "\n".join(
        f"| {one['name']} | {one['version']} | {one['risk'] or ''} | {one['num_virtual_tokens']} | "
        f"{one['repository'] or ''} | {one['commit'] or ''} |"
        for one in manifest["patches"]
    )
    length = manifest["patches"][0]["num_virtual_tokens"]
    more = -(length + 1) % _BLOCK
    flags = "--chat-template chat_template.jinja --chat-template-content-format string \\\n    " if chat else ""
    lines = f"""# Patches for vLLM

Made by policy-patch for the base `{base}` in {dtype}. vLLM serves the base as it is; each request carries its patch.

| patch | version | risk | vectors | repository | commit |
| --- | --- | --- | --- | --- | --- |
{rows}

Start vLLM (read and run with 0.32; torch 2.10 or newer, see below) in this folder:

```sh
vllm serve {place}{named} --dtype {dtype} --enable-prompt-embeds \\
    {flags}--max-logprobs 40
```

Try a completion:

```sh
curl http://localhost:8000/v1/completions -H 'Content-Type: application/json' -d @{names[0]}.completion.json
```

Serve many clients by model name, without embeddings in their requests:

```sh
policy-patch gateway --upstream http://localhost:8000/v1 --base {place} --patch {names[0]}=PATCH{probed}
```
"""
    if chat:
        lines += f"""
In chat the message in `{names[0]}.chat.json` goes before all others. Each patch, and each stack, is ONE part. Started
without this chat template, vLLM puts the vectors elsewhere and answers wrong text without an error.
"""
    if probe:
        lines += f"""
`{PROBE_NAME}` holds what the base predicts with each patch: `policy-patch probe` compares a running server with it.
"""
    lines += f"""
**Trusted clients only.** vLLM unpickles the embeddings that a client sends (`torch.load(weights_only=True)`). Before
torch 2.10 that could run code (CVE-2026-24747). Let only the gateway reach vLLM, not the public.

**Prefix cache.** BOS and {length} vectors are {length + 1} tokens. vLLM caches whole blocks ({_BLOCK} tokens by default
on GPUs): {"they fill whole blocks." if not more else f"with {length + more} vectors they would fill whole blocks."}
"""
    return lines
