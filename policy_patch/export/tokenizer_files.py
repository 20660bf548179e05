"""Writes the tokenizer of a baked checkpoint: with patch tokens, and with the default ones in front of every text.

The files come from the tokenizer in memory, and are written so that transformers 4 and 5 read the same. How a chat
template changes is in `chat_template.py`.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ExportError
from policy_patch.export.chat_template import with_patch_tokens
from policy_patch.export.checkpoint import write_json
from policy_patch.export.patch_tokens import PatchTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Transformers 5 builds its own post-processor where it finds one of these, which drops the patch tokens.
_REBUILDS = ("add_bos_token", "add_eos_token", "backend")
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def check_fast(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise `ExportError` unless a tokenizer is one of the `tokenizers` package, which writes `tokenizer.json`."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ExportError(
            f"`tokenizer` is a {type(tokenizer).__name__} without a backend of the `tokenizers` package, so it cannot "
            "be told to put patch tokens first. Load a fast one: `AutoTokenizer.from_pretrained(base)`."
        )


def write_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", tokens: PatchTokens, folder: Path, *, bos_token_id: int | None
) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and the chat templates into `folder`.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer. Not changed.
        tokens ([`PatchTokens`]):
            The patch tokens. Ids that the tokenizer knows are renamed, others added.
        folder (`Path`):
            Where the files go.
        bos_token_id (`int`, *optional*):
            The token after which the patch tokens go, if a text begins with it. If None, they go first.

    Raises:
        ExportError: the tokenizer puts special tokens around a text in a way that is not known here, or the chat
            template cannot be wrapped.
    """
    check_fast(tokenizer)
    bos = None if bos_token_id is None else tokenizer.convert_ids_to_tokens(bos_token_id)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None  # what the last call asked for
    old_names = _rename_or_add(content, tokens.name_of)
    content["post_processor"] = patched_post_processor(content.get("post_processor"), tokens, bos)
    write_json(folder / "tokenizer.json", content)
    with tempfile.TemporaryDirectory() as own:
        tokenizer.save_pretrained(own)
        config = json.loads(Path(own, "tokenizer_config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in _REBUILDS}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # others make the post-processor anew in transformers 4
    if isinstance(config.get("extra_special_tokens"), list):  # transformers 4 expects a table there
        listed = config.pop("extra_special_tokens")
        config["additional_special_tokens"] = [old_names.get(name, name) for name in map(str, listed)]
    config["added_tokens_decoder"] = {
        str(one["id"]): {key: value for key, value in one.items() if key != "id"} for one in content["added_tokens"]
    }
    config.pop("chat_template", None)
    templates = _templates(tokenizer)
    patched = {name: with_patch_tokens(template, tokens, bos) for name, template in templates.items()}
    if "default" in patched:
        (folder / "chat_template.jinja").write_text(patched["default"], encoding="utf-8")
    if len(patched) == 1 and "default" in patched:
        config["chat_template"] = patched["default"]
    elif patched:
        config["chat_template"] = [{"name": name, "template": text} for name, text in patched.items()]
        more = folder / "additional_chat_templates"
        more.mkdir()
        for name, text in patched.items():
            if name != "default":
                (more / f"{name}.jinja").write_text(text, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)


def _templates(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Return the chat templates by name; a single one is called `default`."""
    found = tokenizer.chat_template
    return {} if not found else {"default": found} if isinstance(found, str) else dict(found)


def _rename_or_add(content: dict[str, Any], name_of: dict[int, str]) -> dict[str, str]:
    """Give the tokens with these ids their names, in the list of added tokens and, if it is there, the vocabulary.

    Returns the new names by the old ones.
    """
    old_names = {one["content"]: name_of[one["id"]] for one in content["added_tokens"] if one["id"] in name_of}
    kept = [one for one in content["added_tokens"] if one["id"] not in name_of]
    changed = [{"id": one, "content": name, **_FLAGS} for one, name in name_of.items()]
    content["added_tokens"] = sorted(kept + changed, key=lambda one: one["id"])
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, dict):
        content["model"]["vocab"] = {old_names.get(token, token): one for token, one in vocabulary.items()}
    return old_names


def patched_post_processor(processor: dict[str, Any] | None, tokens: PatchTokens, bos: str | None) -> dict[str, Any]:
    """Return a post-processor, as `tokenizer.json` holds it, that also puts the default choice's tokens in front.

    Args:
        processor (`dict`, *optional*):
            The original one.
        tokens ([`PatchTokens`]):
            The patch tokens.
        bos (`str`, *optional*):
            If the original puts this token first, the patch tokens go after it.

    Raises:
        ExportError: it is of a kind that is not known here.
    """
    kind = None if processor is None else processor["type"]
    if kind == "TemplateProcessing":
        return _patched_template(processor, tokens, bos)
    if kind is None:
        return _patched_template(_PLAIN, tokens, bos)
    if kind == "ByteLevel":  # it only moves offsets
        return {"type": "Sequence", "processors": [processor, _patched_template(_PLAIN, tokens, bos)]}
    if kind == "Sequence":
        inner = processor["processors"]
        templates = [place for place, one in enumerate(inner) if one["type"] == "TemplateProcessing"]
        if {one["type"] for one in inner} <= {"ByteLevel", "TemplateProcessing"} and len(templates) <= 1:
            if not templates:
                return {**processor, "processors": [*inner, _patched_template(_PLAIN, tokens, bos)]}
            patched = _patched_template(inner[templates[0]], tokens, bos)
            return {
                **processor,
                "processors": [patched if place in templates else one for place, one in enumerate(inner)],
            }
    raise ExportError(
        f"The tokenizer's post-processor is {kind}, in which the place of the patch tokens is unknown; expected a "
        "template, byte-level offsets or both."
    )


_PLAIN = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def _patched_template(template: dict[str, Any], tokens: PatchTokens, bos: str | None) -> dict[str, Any]:
    ids, names = tokens.ids_of(), tokens.names_of()
    pieces = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]

    def with_pieces(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        begins = bool(items) and bos is not None and items[0].get("SpecialToken", {}).get("id") == bos
        return [*items[:begins], *pieces, *items[begins:]]

    special = {name: {"id": name, "ids": [one], "tokens": [name]} for one, name in zip(ids, names)}
    return {
        **template,
        "single": with_pieces(template["single"]),
        "pair": with_pieces(template["pair"]),
        "special_tokens": {**template["special_tokens"], **special},
    }
