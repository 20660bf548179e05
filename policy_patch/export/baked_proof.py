"""Proves a baked checkpoint before it is published: it is loaded, and does what the patched model does.

Tokenizer, rows, weights and logits are compared one after the other; whatever differs is an `ExportError`. Nothing is
written here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from policy_patch.base.architecture import learned_position_limit
from policy_patch.base.loading import load_errors, load_pretrained
from policy_patch.base.weight_samples import SampleRequest, moved_samples, read_samples
from policy_patch.base.weights import EMBEDDING, EMBEDDING_SAMPLES, HEAD, request, weights_of
from policy_patch.errors import ExportError
from policy_patch.export.patch_tokens import OFF, PatchTokens
from policy_patch.export.surgery import Operation
from policy_patch.export.tensor_files import DTYPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policy_patch.model.patched_model import PolicyPatchModel

_TEXTS = ("The weather in the mountains was", "Question: What is two plus three?\nAnswer:", " import os\n\ndef f(x):")
# Largest difference of logits that is not a fault, in units of their standard deviation (at least 1). Measured: 0.0 in
# fp32 where the patched model runs without its cache, 3e-6 with it. Half precision rounds each layer's result.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Proof:
    """What was measured on a baked checkpoint.

    Args:
        difference (`float`):
            Largest absolute difference of logits between it and the patched model.
        largest_mass (`float`):
            The largest probability that all patch tokens together had after any token of the texts.
        rows (`int`):
            Number of texts and chats that were compared, over all choices.
    """

    difference: float
    largest_mass: float
    rows: int


def prove(
    folder: Path,
    model: "PolicyPatchModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    tokens: PatchTokens,
    operation: Operation,
    bos_token_id: int | None,
) -> Proof:
    """Load the checkpoint in `folder`, compare it with the patched model, and return what was measured.

    Args:
        folder (`Path`):
            The checkpoint.
        model ([`PolicyPatchModel`]):
            The model that it has to equal.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        tokens, operation:
            What was written.
        bos_token_id (`int`, *optional*):
            The token after which the vectors go.

    Raises:
        ExportError: a token, a row, a weight or a logit differs.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = model.get_base_model()
    trust = {"trust_remote_code": True} if type(base).__module__.startswith("transformers_modules") else {}
    with load_errors(f"the baked tokenizer in `{folder}`"):
        baked_tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **trust)
    rows = _checked_rows(tokenizer, baked_tokenizer, tokens, bos_token_id)
    baked = load_pretrained(
        AutoModelForCausalLM,
        folder,
        named="the baked checkpoint",
        dtype=base.dtype,
        attn_implementation=base.config._attn_implementation,
        local_files_only=True,
        **trust,
    )
    baked = baked.eval().to(base.get_input_embeddings().weight.device)
    _check_rows(baked, operation)
    _check_weights(baked, base, tokens)
    exact = DTYPES[operation.dtype] == base.dtype
    return _compared(baked, model, tokens, rows, bos_token_id=bos_token_id, exact=exact)


def placed(row: Sequence[int], ids: Sequence[int], bos_token_id: int | None) -> list[int]:
    """Return a row of token ids with patch tokens after its BOS token, or first if it does not begin with that."""
    begins = bos_token_id is not None and list(row[:1]) == [bos_token_id]
    return [*row[:begins], *ids, *row[begins:]]


def _ids(tokenizer: Any, text: str, **options: Any) -> list[int]:
    return tokenizer(text, padding=False, truncation=False, verbose=False, **options)["input_ids"]


def _chat(tokenizer: Any, content: str, **variables: Any) -> list[int]:
    messages = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
    return _ids(tokenizer, text, add_special_tokens=False)


def _checked_rows(
    tokenizer: Any, baked: Any, tokens: PatchTokens, bos_token_id: int | None
) -> dict[str, list[list[int]]]:
    """Check what the baked tokenizer puts in front; return for each choice the rows of ids that the base is given."""
    texts = [_ids(tokenizer, text) for text in _TEXTS]
    for text, row in zip(_TEXTS, texts):
        _check_same(f"the text {text!r}", _ids(baked, text), placed(row, tokens.ids_of(), bos_token_id))
    rows = {tokens.default: list(texts)}
    if tokenizer.chat_template:
        for choice in (None, *tokens.choices, *OFF):
            variables = {} if choice is None else {"patch": choice}
            ids = tokens.ids_of(choice)
            chats = [_chat(tokenizer, text) for text in _TEXTS]
            for text, row in zip(_TEXTS, chats):
                named = f"a chat with {choice or 'no choice'} and the message {text!r}"
                _check_same(named, _chat(baked, text, **variables), placed(row, ids, bos_token_id))
            rows.setdefault(tokens.default if choice is None else choice, []).extend(chats)
            hostile = _chat(baked, "".join(tokens.name_of.values()), **variables)
            if sum(one in tokens.name_of for one in hostile) != len(ids):
                raise ExportError(
                    f"A message that spells patch tokens gives patch tokens (choice {choice}): {hostile}."
                )
    for choice in (*tokens.choices, "off"):
        rows.setdefault(choice, list(texts))
    return rows


def _check_same(named: str, found: list[int], expected: list[int]) -> None:
    if found != expected:
        raise ExportError(
            f"The baked tokenizer gives {named} the ids {_short(found)}; expected {_short(expected)}. If the ids of "
            "the text itself differ, the tokenizer's class changes them when it is loaded (give the tokenizer that "
            "`AutoTokenizer.from_pretrained` loads from the base's folder), or the chat template does not begin with "
            "BOS and the tokenizer treats the first word of a string apart (begin it with `{{ bos_token }}`)."
        )


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 16 else f"{ids[:8]} ... {ids[-4:]} ({len(ids)})"


def _check_rows(baked: "PreTrainedModel", operation: Operation) -> None:
    weight = baked.get_input_embeddings().weight
    for one, row in operation.rows.items():
        expected = row.to(DTYPES[operation.dtype]).to(weight.dtype)
        if not torch.equal(weight[one].detach().cpu(), expected):
            raise ExportError(f"Row {one} of the baked embeddings is not the vector that it should hold.")


def _check_weights(baked: "PreTrainedModel", base: "PreTrainedModel", tokens: PatchTokens) -> None:
    """Compare samples of all weights: a base that was changed after it was loaded is not what its files hold."""
    patch_ids = set(tokens.all_ids)
    sides = []
    for one in (base, baked):
        weights = weights_of(one)
        kept = torch.tensor([row for row in range(base.get_input_embeddings().weight.shape[0]) if row not in patch_ids])
        requests = [request(name, *weights[name]) for name in weights if name not in (EMBEDDING, HEAD)]
        for name, module in ((EMBEDDING, one.get_input_embeddings()), (HEAD, one.get_output_embeddings())):
            few = kept[torch.linspace(0, len(kept) - 1, min(1024, len(kept))).long()].to(module.weight.device)
            rows = module.weight.detach()[few]
            requests.append(SampleRequest(name, rows, None, EMBEDDING_SAMPLES))
        sides.append(read_samples(requests))
    before, after = sides
    if before.keys() != after.keys():
        raise ExportError(
            f"The loaded base has weights that its files lack: {sorted(before.keys() ^ after.keys())[:3]}. Adapters "
            "have to be merged and the base saved before a bake."
        )
    moved = [name for name in before if moved_samples(before[name], after[name]).any()]
    if moved:
        raise ExportError(
            f"{len(moved)} weights of the base in memory are not those in its files, such as {moved[:3]}. It was "
            "changed after it was loaded: save it with `save_pretrained`, load it from there, and bake again."
        )


def _compared(
    baked: "PreTrainedModel",
    model: "PolicyPatchModel",
    tokens: PatchTokens,
    rows: dict[str, list[list[int]]],
    *,
    bos_token_id: int | None,
    exact: bool,
) -> Proof:
    from policy_patch.model.named_patches import BASE_NAME

    device = baked.get_input_embeddings().weight.device
    every = torch.tensor(tokens.all_ids, device=device)
    limit = learned_position_limit(model.get_base_model())
    largest, mass, count = 0.0, 0.0, 0
    for choice, texts in rows.items():
        ids = tokens.ids_of(choice)
        names = BASE_NAME if choice in OFF else tokens.choices[choice]
        for text in texts:
            text = text if limit is None else text[: limit - len(ids)]
            if not text:
                continue
            own = torch.tensor([text], device=device)
            with torch.no_grad():
                expected = model(input_ids=own, patch_names=[names]).logits[0]  # (length, vocabulary)
                with_ids = torch.tensor([placed(text, ids, bos_token_id)], device=device)
                found = baked(input_ids=with_ids, use_cache=False).logits[0, len(ids) :]
            mass = max(mass, float(found.float().softmax(-1)[:, every].sum(-1).max()))
            off = float((found[:, : expected.shape[1]] - expected).abs().max())
            dtype = expected.dtype if exact or choice in OFF else torch.bfloat16
            allowed = _TOLERANCE.get(dtype, 0.1) * max(1.0, float(expected.float().std()))
            if not off <= allowed:
                raise ExportError(
                    f"The baked checkpoint does not do what the patched model does: with the choice `{choice}` logits "
                    f"differ by {off:.3g} after a text of {len(text)} tokens; allowed is {allowed:.3g}. Something acts "
                    "on the base that its files do not hold (a hook, an adapter, changed settings), or the "
                    "architecture uses token ids in other places. Serve the patch as prompt embeddings instead."
                )
            largest, count = max(largest, off), count + 1
    return Proof(largest, mass, count)
