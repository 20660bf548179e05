"""Makes the fair safe prompt: a safety sentence that is repeated until it is as long as the patch.

A patch of 50 vectors has 50 positions to influence the base; a single sentence has about ten. Only at equal length does
the comparison say what the training adds. The systems of an evaluation are listed in `systems.py`.
"""

from typing import Any

from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.errors import EvaluationError


def equal_length_prompt(model: Any, tokenizer: Any, safe_prompt: str | None = None) -> str:
    """Return an instruction of as many tokens as the active patches have vectors, for the base without a patch.

    Each patch gives the sentence that its vectors started from, with its tokens repeated and cut to the number of its
    vectors, exactly as `init="text"` does it (arXiv 2511.08484). So this prompt is the start of the patch in words. A
    patch with another start gives `safe_prompt`, or else the sentence of its risk. The prompt ends with the white space
    at the end of the sentence, or with one space: in the lab, a space lowered the risk more than a new line.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model; its active patches count.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        safe_prompt (`str`, *optional*):
            The sentence for patches that did not start from one.

    Returns:
        `str`: the instruction. The joined tokens may split differently by a few when the text is read again.

    Raises:
        EvaluationError: a patch did not start from a sentence, its risk has none, and no `safe_prompt` is given.
    """
    parts, end = [], ""
    for name in model.active_patches:
        config = model.patch_config[name]
        sentence = config.init_text if config.init == "text" else safe_prompt or DEFAULT_INIT_TEXTS.get(config.risk)
        if not sentence or not sentence.strip():
            raise EvaluationError(
                f"The patch {name!r} has no sentence to repeat: it starts from `init={config.init!r}`. Give "
                "`safe_prompt`, a safety instruction in plain words."
            )
        end = sentence[len(sentence.rstrip()) :] or " "
        parts.append(_repeated(tokenizer, sentence.rstrip(), config.num_virtual_tokens))
    return " ".join(parts) + end


def _repeated(tokenizer: Any, sentence: str, count: int) -> str:
    """Return the tokens of a sentence, repeated and cut to `count`, as text."""
    ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
    repeats = -(-count // max(1, len(ids)))  # ceiling division
    return tokenizer.decode((list(ids) * repeats)[:count], clean_up_tokenization_spaces=False)
