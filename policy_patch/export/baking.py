"""`bake`: an ordinary transformers checkpoint in which the vectors of patches are rows of tokens, put first by it.

Any engine that reads such a checkpoint serves the patch without code of ours. The steps are in files of their own:
`token_rows.py`, `surgery.py`, `tokenizer_files.py`, `suppression.py`, `baked_proof.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from policy_patch._version import __version__
from policy_patch.answers.served_probe import record_probe
from policy_patch.base.fingerprint import check_base
from policy_patch.base.supported import check_length
from policy_patch.errors import ExportError, PositionLimitError
from policy_patch.export.baked_proof import Proof, prove
from policy_patch.export.chat_template import chat_problems
from policy_patch.export.checkpoint import Checkpoint, read_checkpoint, read_object, write_json
from policy_patch.export.new_folder import new_folder
from policy_patch.export.patch_tokens import PatchTokens, check_choices, choices_of, new_marker
from policy_patch.export.suppression import write_suppression
from policy_patch.export.surgery import Operation, copy_others, plan, write_configs, write_weights
from policy_patch.export.token_rows import TokenRows, token_rows
from policy_patch.export.tokenizer_files import check_fast, write_tokenizer
from policy_patch.patch.folder import patch_hash
from policy_patch.privacy.local_names import is_local, lab_name, without_folders

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from policy_patch.model.patched_model import PolicyPatchModel

logger = logging.get_logger(__name__)

RECORD_NAME = "policy_patch_bake.json"
_RECORD_FORMAT = 1


@dataclass(frozen=True)
class Baked:
    """What a bake has written and what was proved about it.

    Args:
        folder (`Path`):
            The checkpoint.
        tokens ([`PatchTokens`]):
            The patch tokens, and the choices that a request has.
        rows ([`TokenRows`]):
            Which rows carry the vectors: unused ones of the base, added ones.
        unties (`bool`):
            Whether the head became a matrix of its own, because its rows were shared with the embeddings.
        extra_bytes (`int`):
            By how much the weights grew.
        head (`str`):
            What the head has for patch tokens: `"unchanged"`, or the kind of [`HeadRows`] for added tokens.
        bound (`float`):
            Added patch tokens together have at most this probability, at temperature 1 and without suppression. 0.0 if
            none is added or their rows are exact. Unused rows of the base keep the probability that they had.
        proof ([`Proof`]):
            What was measured when the checkpoint was compared with the patched model.
    """

    folder: Path
    tokens: PatchTokens
    rows: TokenRows
    unties: bool
    extra_bytes: int
    head: str
    bound: float
    proof: Proof
    has_chat_template: bool = field(default=True)

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values, apart from the names of the tokens."""
        rows = {name: len(getattr(self.rows, name)) for name in ("slack", "reserved", "added")}
        return {
            "folder": str(self.folder),
            "choices": {name: list(stack) for name, stack in self.tokens.choices.items()},
            "default": self.tokens.default,
            "has_chat_template": self.has_chat_template,
            "vectors": len(self.tokens.all_ids),
            "rows": rows,
            "unties": self.unties,
            "extra_bytes": self.extra_bytes,
            "head": self.head,
            "bound": self.bound,
            "largest_mass": self.proof.largest_mass,
            "difference": self.proof.difference,
            "compared": self.proof.rows,
        }


def bake(
    model: "PolicyPatchModel",
    tokenizer: "PreTrainedTokenizerBase",
    output_dir: str | PathLike,
    *,
    patches: Sequence[str | Sequence[str]] | None = None,
    default: str | None = None,
    base_folder: str | PathLike | None = None,
    reuse_rows: bool = True,
    allow_base_mismatch: bool = False,
    probe: bool = True,
) -> Baked:
    """Write a checkpoint that any engine serves with the patch, as tokens: `[BOS][vectors][text]`.

    The base's safetensors files are edited one after the other, in the memory of a chunk. The result is then loaded
    beside the base, on its device, and compared with the patched model: it appears under `output_dir` once it is proved
    equal, or not at all.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model. Its base was loaded from a folder or from the Hub, unquantised, and not changed since.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer, a fast one. Its chat template is the one that is baked.
        output_dir (`str` or `os.PathLike`):
            A new or an empty folder.
        patches (`Sequence[str | Sequence[str]]`, *optional*):
            Patches of the model, and stacks as sequences of names, between which a chat request can choose by
            `chat_template_kwargs: {"patch": "tox"}`; a stack is called `"tox+bias"`, the base alone `"none"` or
            `"off"`. Defaults to the active stack.
        default (`str`, *optional*):
            The choice of requests that name none, and of all raw completions. Defaults to the first.
        base_folder (`str` or `os.PathLike`, *optional*):
            Folder with the files that the base was loaded from, if it is not where it says.
        reuse_rows (`bool`, *optional*, defaults to `True`):
            Use tokens that the base's maker reserved, such as `<|reserved_special_token_0|>`. They are renamed.
        allow_base_mismatch (`bool`, *optional*, defaults to `False`):
            Accept patches that were made for another state of the base.
        probe (`bool`, *optional*, defaults to `True`):
            Also write `policy_patch_probe.json`, by which `policy-patch probe` tells whether a server has the patch. It
            runs the base and each choice on 20 short prompts.

    Returns:
        [`Baked`]: what was done and what was proved.

    Raises:
        ExportError: nothing was loaded from files, pickled or quantised files, a slow tokenizer, vectors before BOS,
            `output_dir` holds files or cannot be written, or the result is not equal to the patched model.
        PatchNameError: a name that is not loaded.
        BaseMismatchError: a patch for another base or another tokenizer.
        PositionLimitError: a stack that is longer than the positions the base has learned.

    Example:

    ```python
    >>> from policy_patch.export import bake
    >>> bake(model, tokenizer, "baked", patches=["tox", "bias", ("tox", "bias")])  # doctest: +SKIP

    ```
    """
    check_fast(tokenizer)
    base = model.get_base_model()
    names = [tuple(model.active_patches)] if patches is None and model.active_patches else list(patches or [])
    choices = choices_of(names)
    used = list(dict.fromkeys(patch for stack in choices.values() for patch in stack))
    default = next(iter(choices), "none") if default is None else default
    check_choices(choices, default, set(used))
    bos_token_id = _checked_place(model, tokenizer, used, allow_base_mismatch=allow_base_mismatch)
    for problem in chat_problems(tokenizer, bos_token_id):
        logger.warning(problem)
    for stack in choices.values():
        model.check_stack(stack)
        check_length(base, sum(model.patches[patch].shape[0] for patch in stack))
    checkpoint = read_checkpoint(base, None if base_folder is None else Path(base_folder))
    vectors = {patch: model.patches[patch].detach() for patch in used}
    rows = token_rows(base, tokenizer, sum(map(len, vectors.values())), reuse=reuse_rows)
    left = iter(rows.ids)
    ids = {patch: tuple(next(left) for _ in own) for patch, own in vectors.items()}
    tokens = PatchTokens(new_marker(), ids, choices, default)
    operation = plan(
        checkpoint, base, {one: vector for patch in used for one, vector in zip(ids[patch], vectors[patch])}
    )
    with new_folder(output_dir) as folder:
        _write(folder, checkpoint, operation, tokens=tokens, tokenizer=tokenizer, bos_token_id=bos_token_id)
        proof = prove(folder, model, tokenizer, tokens=tokens, operation=operation, bos_token_id=bos_token_id)
        low = operation.head
        done = Baked(
            folder=Path(output_dir),
            tokens=tokens,
            rows=rows,
            unties=operation.unties,
            extra_bytes=operation.extra_bytes,
            head="unchanged" if low is None else low.kind,
            bound=0.0 if low is None else low.bound,
            proof=proof,
            has_chat_template=bool(tokenizer.chat_template),
        )
        _write_record(folder, done, model, used)
        if probe:
            _write_probe(folder, model, tokenizer, tokens)
    return done


def _checked_place(model: Any, tokenizer: Any, used: list[str], *, allow_base_mismatch: bool) -> int | None:
    """Return the token after which the vectors of all patches go, or None if they go first."""
    for patch in used:
        model._check_known(patch)
    places = {patch: model.patch_config[patch].bos_token_id for patch in used}
    for patch in used:
        config = model.patch_config[patch]
        if config.placement == "before_bos" and tokenizer.bos_token_id is not None:
            raise ExportError(
                f"The patch `{patch}` has its vectors before BOS (`placement` of its configuration). Servers put BOS "
                "first themselves, so such a checkpoint would not do what the patch was trained for. Train it with "
                '`placement="after_bos"`, the default.'
            )
        if config.base_fingerprint is not None:
            check_base(
                model.get_base_model(),
                config.base_fingerprint,
                tokenizer=tokenizer,
                allow_mismatch=allow_base_mismatch,
                source=f"The patch `{patch}`",
            )
    if len(set(places.values())) > 1:
        raise ExportError(f"The patches go after different tokens ({places}, `bos_token_id`); bake them apart.")
    bos = places[used[0]]
    return bos if isinstance(bos, int) else None


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    operation: Operation,
    *,
    tokens: PatchTokens,
    tokenizer: Any,
    bos_token_id: int | None,
) -> None:
    write_weights(checkpoint, operation, folder)
    write_configs(
        checkpoint,
        folder,
        added=operation.added,
        unties=operation.unties,
        suppressed=list(tokens.all_ids),
    )
    write_tokenizer(tokenizer, tokens, folder, bos_token_id=bos_token_id)
    write_suppression(tokens, folder)
    copy_others(checkpoint, folder)


def _write_probe(folder: Path, model: "PolicyPatchModel", tokenizer: Any, tokens: PatchTokens) -> None:
    first = [tokens.default] if tokens.default in tokens.choices else []  # a probe expects the first one
    stacks = {choice: tokens.choices[choice] for choice in (*first, *tokens.choices)}
    try:
        record_probe(model, tokenizer, folder, stacks=stacks)
    except PositionLimitError as error:
        logger.warning(
            f"No probe was written, so `policy-patch probe` cannot check a server of this checkpoint: {error}"
        )


def _write_record(folder: Path, done: Baked, model: "PolicyPatchModel", used: list[str]) -> None:
    base = model.get_base_model().config._name_or_path
    name = lab_name(base) or (without_folders(base) if is_local(base) else base)
    patches = {}
    for patch in used:
        config = model.patch_config[patch]
        patches[patch] = {
            "ids": list(done.tokens.ids[patch]),
            "patch_version": config.patch_version,
            "risk": config.risk,
            "sha256": patch_hash(config, model.patches[patch]),
        }
    facts = {key: value for key, value in done.facts().items() if key != "folder"}
    record = {
        "format_version": _RECORD_FORMAT,
        "written_by": f"policy-patch {__version__}",
        "base": name,
        "marker": done.tokens.marker,
        "patches": patches,
        **facts,
    }
    write_json(folder / RECORD_NAME, record)
    (folder / "README.md").write_text(_card(name, done, patches), encoding="utf-8")


def read_patch_tokens(folder: str | PathLike) -> PatchTokens:
    """Return the patch tokens of a baked checkpoint.

    Raises:
        ExportError: the folder was not written by [`bake`], or by a newer version of it.
    """
    path = Path(folder) / RECORD_NAME
    if not path.is_file():
        raise ExportError(f"`{folder}` has no `{RECORD_NAME}`; expected a folder that `bake` has written.")
    record = read_object(path)
    if record.get("format_version") != _RECORD_FORMAT:
        raise ExportError(
            f"`{path}` has the format {record.get('format_version')!r}; this version of policy-patch reads "
            f"{_RECORD_FORMAT}. Use the version that wrote it ({record.get('written_by')!r})."
        )
    try:
        ids = {patch: tuple(one["ids"]) for patch, one in record["patches"].items()}
        choices = {choice: tuple(stack) for choice, stack in record["choices"].items()}
        return PatchTokens(record["marker"], ids, choices, record["default"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"`{path}` is damaged ({error!r}). Bake again.") from error


def _card(base: str, done: Baked, patches: dict[str, Any]) -> str:
    named = "\n".join(
        f"- `{name}` {one['patch_version']}, {len(one['ids'])} vectors{', ' + one['risk'] if one['risk'] else ''}"
        for name, one in patches.items()
    )
    choices = ", ".join(f"`{choice}`" for choice in (*done.tokens.choices, "none"))
    default = done.tokens.default
    chooses = f"""A chat request chooses by `chat_template_kwargs: {{"patch": "..."}}`: {choices}; without a choice it
is `{default}`. A client that may send template variables or token ids can switch the patch off."""
    if not done.has_chat_template:
        chooses = f"""It has no chat template, so a request cannot choose: every text gets `{default}`. A client that
may send token ids can switch the patch off."""
    puts = "tokenizer and chat template put" if done.has_chat_template else "the tokenizer puts"
    return f"""---
library_name: transformers
base_model: {base}
tags: [policy-patch]
---

# {base} with a safety patch baked in

An ordinary checkpoint. The vectors of these patches are rows of special tokens, which {puts}
in front of every text:

{named}

{chooses}

Patch tokens are never to be sampled: see `suppression/README.md`. What was proved is in `{RECORD_NAME}`.
"""
