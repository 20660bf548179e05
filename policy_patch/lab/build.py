"""The recipe of the lab's models: `python -m policy_patch.lab.build [--output DIR]` writes both models anew.

One thread and fixed seeds, so that a machine writes the same bytes each time; using the models needs none of this.
"""

import argparse
import copy
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from .checkpoints import LAB_MODELS_PATH
from .grammar import documents

_SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
_PAD, _BOS, _EOS = range(3)
_VOCAB_SIZE = 1536
# 50 vectors, a prompt and an answer end before this place, so a patch is never at a distance that was not trained.
_MAX_LENGTH = 192
TOKENIZER_DOCUMENTS = 6000
_IGNORED_LABEL = -100  # what the loss of transformers leaves out


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training run; we chose its figures by trial, so that both runs take a few minutes on one core.

    Args:
        name (`str`): For progress lines.
        flawed (`bool`): Whether to train on the flawed or on the clean texts.
        seed (`int`): Of the texts and the batch order.
        steps (`int`): Optimizer steps.
        batch_size (`int`): Documents per step.
        learning_rate (`float`): Highest rate of AdamW, after the warmup and before the cosine to zero.
    """

    name: str
    flawed: bool
    seed: int
    steps: int
    batch_size: int = 32
    learning_rate: float


BASE_STAGE = Stage(name="base", flawed=True, seed=1, steps=1000, learning_rate=4e-3)
TEACHER_STAGE = Stage(name="teacher", flawed=False, seed=2, steps=350, learning_rate=1.5e-3)


def build(output_dir: Path, report: Callable[[str], None]) -> None:
    """Makes the tokenizer, the base and the teacher and writes them.

    Args:
        output_dir (`Path`): Gets a folder `base` (with the tokenizer in it) and a folder `teacher`.
        report (`Callable[[str], None]`): Called with a line of progress now and then.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tokenizer = train_tokenizer(documents(TOKENIZER_DOCUMENTS, flawed=True, seed=0))
        tokenizer.save_pretrained(output_dir / "base")
        model = new_model()
        report(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
        for stage in (BASE_STAGE, TEACHER_STAGE):
            # The teacher goes on from the base in full precision, as a safer release would.
            train(model, tokenizer, stage, report)
            save(model, output_dir / stage.name)
            report(f"wrote {output_dir / stage.name}")
    finally:
        torch.set_num_threads(threads)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE, which has a token for every byte and so can read any text.

    Args:
        texts (`Iterable[str]`): What to learn the merges from.

    Returns:
        `PreTrainedTokenizerFast`: It puts `<s>` in front and nothing at the end, and pads on the left, for generation.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", _BOS)]
    )
    pad, bos, eos = _SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def new_model() -> LlamaForCausalLM:
    """Gives the untrained model: a Llama of about one million parameters with fixed random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=_PAD,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage, report: Callable[[str], None]
) -> None:
    """Trains all weights on one corpus, each document once.

    Args:
        model (`LlamaForCausalLM`): Changed in place.
        tokenizer (`PreTrainedTokenizerFast`): The tokenizer.
        stage (`Stage`): What to train on and how long.
        report (`Callable[[str], None]`): Called with the loss every 50 steps.
    """
    model.train()
    # Betas, weight decay and clipping are the usual ones for language models (GPT-3, arXiv 2005.14165, appendix B).
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_and_cosine(step, stage.steps))
    start, losses = time.monotonic(), []
    for step, (input_ids, labels) in enumerate(_batches(tokenizer, stage), start=1):
        # Padding is on the right, where causal attention never looks, so no mask is needed.
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0:
            mean = sum(losses[-50:]) / 50
            report(f"{stage.name}: step {step}/{stage.steps}, loss {mean:.3f}, {time.monotonic() - start:.0f} s")
    model.eval()


def save(model: LlamaForCausalLM, output_dir: Path) -> None:
    """Writes a model as bfloat16 safetensors; the model itself stays as it is.

    Args:
        model (`LlamaForCausalLM`): In fp32.
        output_dir (`Path`): The folder to write.
    """
    stored = copy.deepcopy(model).to(torch.bfloat16)
    stored.generation_config = GenerationConfig(pad_token_id=_PAD, bos_token_id=_BOS, eos_token_id=_EOS)
    stored.save_pretrained(output_dir)


def _warmup_and_cosine(step: int, steps: int) -> float:
    warmup = 30
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _batches(tokenizer: PreTrainedTokenizerFast, stage: Stage) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields token ids and labels, both `(batch, length)` int64, of documents of about the same length."""
    texts = list(documents(stage.steps * stage.batch_size, flawed=stage.flawed, seed=stage.seed))
    rows = [[*ids, _EOS][:_MAX_LENGTH] for ids in tokenizer(texts)["input_ids"]]
    rows.sort(key=len)  # a stable sort: the same order every time
    batches = [rows[at : at + stage.batch_size] for at in range(0, len(rows), stage.batch_size)]
    random.Random(stage.seed).shuffle(batches)
    for batch in batches:
        length = max(map(len, batch))
        input_ids = torch.tensor([row + [_PAD] * (length - len(row)) for row in batch])
        labels = torch.tensor([row + [_IGNORED_LABEL] * (length - len(row)) for row in batch])
        yield input_ids, labels


def main() -> None:
    """Runs the recipe from the command line; a line of progress goes to stderr every 50 steps."""
    parser = argparse.ArgumentParser(
        prog="python -m policy_patch.lab.build",
        description="Write the lab's miniature base and teacher anew. Takes several minutes on one core.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=LAB_MODELS_PATH,
        metavar="DIR",
        help="where to write (default: the package itself)",
    )
    output_dir = parser.parse_args().output
    transformers_logging.disable_progress_bar()
    build(output_dir, lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
