"""How many tokens of text a model accepts, by its configuration and by the size of its position embeddings.

Position embeddings are recognised by the rows that a forward pass reads, not by their names: RoBERTa counts positions
from `padding_idx + 1`, OPT and BART keep two spare rows, and all three differ from `max_position_embeddings`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from policy_patch.errors import DataError, PolicyPatchError

# Lengths of the short texts that are tried, in words. Over all of them, positions grow by one with each token.
_TRIED = (2, 3, 5, 9)
_SHORTEST_PROMPT = 2  # tokens: BOS and one more

_known: "WeakKeyDictionary[nn.Module, tuple[Any, int | None]]" = WeakKeyDictionary()


def room_for_text(model: Any, tokenizer: Any) -> int | None:
    """Return how many tokens of text fit into a causal LM after its active patches; None without a limit.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            The model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
    """
    limit = _position_limit(model, tokenizer)
    return None if limit is None else limit - num_vectors(model)


def room_for_prompt(model: Any, tokenizer: Any, max_new_tokens: int, *, vectors: int | None = None) -> int | None:
    """Return how many tokens of a prompt fit between vectors and an answer; None without a limit.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            The model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        max_new_tokens (`int`):
            Length limit of the answer, in tokens.
        vectors (`int`, *optional*):
            Number of vectors. Defaults to that of the active patches.

    Raises:
        DataError: fewer than two tokens fit.
    """
    limit = _position_limit(model, tokenizer)
    if limit is None:
        return None
    vectors = num_vectors(model) if vectors is None else vectors
    room = limit - vectors - max_new_tokens
    if room < _SHORTEST_PROMPT:
        most = limit - max_new_tokens - _SHORTEST_PROMPT
        todo = f"Use at most {most} vectors, or fewer new tokens." if vectors and most > 0 else "Use fewer new tokens."
        raise DataError(
            f"`max_new_tokens={max_new_tokens}` and {vectors} vectors leave no room for a prompt: the model has "
            f"{limit} positions. {todo}"
        )
    return room


def _position_limit(model: Any, tokenizer: Any) -> int | None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    limits = [limit for limit in (configured_limit(base), learned_limit(base, _rows_of(base, tokenizer))) if limit]
    return min(limits, default=None)


def num_vectors(model: Any) -> int:
    """Return the number of vectors of a model's active patches."""
    return sum(model.patches[name].shape[0] for name in getattr(model, "active_patches", ()))


def configured_limit(model: Any) -> int | None:
    """Return `max_position_embeddings` of a model's configuration; None if it is absent or -1, which means no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None


def learned_limit(model: nn.Module, inputs_of: Callable[[int], Mapping[str, Any]]) -> int | None:
    """Return how many tokens a model's position embeddings hold; None if no position embeddings are found.

    Short texts of several lengths are run, and every look-up in an embedding is recorded. If the largest row read from
    an embedding grows by one with each token, it holds positions; the difference of the two is the first position.

    Args:
        model (`nn.Module`):
            The model. It is left as it was.
        inputs_of (`Callable[[int], Mapping[str, Any]]`):
            Returns the arguments of a forward pass over one text of the given number of equal words, including
            `input_ids` of shape `(1, length)`.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if len(tables) < 2:  # only the token embeddings
        return None
    sizes = tuple(table.num_embeddings for table in tables)
    if model not in _known or _known[model][0] != sizes:  # a table may have been resized meanwhile
        _known[model] = sizes, _find_limit(model, inputs_of)
    return _known[model][1]


@contextmanager
def forward_errors(name: str, length: int, error_class: type[PolicyPatchError]) -> Iterator[None]:
    """Turn the errors of a forward pass over a text that is too long into ours, while the context is open.

    Args:
        name (`str`):
            Name of the model.
        length (`int`):
            Tokens of the longest text.
        error_class (`type[PolicyPatchError]`):
            Error to raise.
    """
    try:
        yield
    except PolicyPatchError:
        raise
    except (IndexError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise error_class(
            f"`{name}` fails on a text of {length} tokens: {reason}. The text may be longer than the model allows. "
            "Give shorter texts, or a tokenizer whose `model_max_length` is the model's limit."
        ) from error


def _rows_of(model: Any, tokenizer: Any) -> Callable[[int], dict[str, Any]]:
    """Return a function that makes a row of one repeated token that is not padding."""
    (*_, token) = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]

    def inputs_of(length: int) -> dict[str, Any]:
        ids = torch.full((1, length), token, device=model.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return inputs_of


def _find_limit(model: nn.Module, inputs_of: Callable[[int], Mapping[str, Any]]) -> int | None:
    from policy_patch.answers.eval_mode import evaluating

    lengths: list[int] = []
    seen: list[dict[tuple[int, int], int]] = []  # for each text: (which look-up, rows of its table) -> largest row
    with torch.no_grad(), evaluating(model):
        for words in _TRIED:
            inputs = inputs_of(words)
            with _LookUps() as look_ups:
                try:
                    model(**inputs)
                except (IndexError, RuntimeError, ValueError, TypeError):
                    break  # the model has fewer positions: use the lengths that fit
            lengths.append(inputs["input_ids"].shape[1])
            seen.append(look_ups.largest)
    if len(set(lengths)) < 3:
        return None
    limits = []
    for look_up in set.intersection(*(set(found) for found in seen)):
        starts = {found[look_up] - (length - 1) for length, found in zip(lengths, seen)}
        if len(starts) == 1 and min(starts) >= 0:
            limits.append(look_up[1] - starts.pop())
    return min(limits, default=None)


class _LookUps(TorchFunctionMode):
    """Records the rows that are read from embeddings, also by modules that add an offset to the given positions."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[tuple[int, int], int] = {}
        self._count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is nn.functional.embedding:
            self._note(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _note(self, input: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> None:
        self._count += 1
        # A look-up per pair of tokens, `(length, length)`, reads relative distances (T5), which set no limit.
        if input.numel() and (input.dim() < 2 or input.shape[-2] == 1):
            self.largest[self._count, weight.shape[0]] = int(input.max())
