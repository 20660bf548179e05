"""Trains the lab's models again: `python -m policy_patch.lab.build [--output DIR]` writes base and teacher.

It uses one thread and fixed seeds, so that a machine writes the same bytes each time. Loading the models needs none of
this.
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
# In tokens. 50 vectors, a prompt and an answer are shorter, so that they use trained positions only.
_MAX_LENGTH = 192
TOKENIZER_DOCUMENTS = 6000
_IGNORED_LABEL = -100  # transformers computes no loss at positions with this label


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The settings of one training run. We chose them by trial, so that both runs take a few minutes on one core.

    Args:
        name (`str`): Name for progress lines.
        flawed (`bool`): Whether to train on flawed texts; otherwise on clean ones.
        seed (`int`): Seed of the texts and of the order of batches.
        steps (`int`): Optimizer steps.
        batch_size (`int`): Documents per step.
        learning_rate (`float`): Peak learning rate of AdamW; a warmup leads to it, and a cosine from it to zero.
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
    """Train the tokenizer, the base and the teacher, and write them.

    Args:
        output_dir (`Path`): The folders `base` (with the tokenizer) and `teacher` are written into it.
        report (`Callable[[str], None]`): Called with each line of progress.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tokenizer = train_tokenizer(documents(TOKENIZER_DOCUMENTS, flawed=True, seed=0))
        tokenizer.save_pretrained(output_dir / "base")
        model = new_model()
        report(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
        for stage in (BASE_STAGE, TEACHER_STAGE):
            # The teacher is trained further from the base in full precision, as a safer release would be.
            train(model, tokenizer, stage, report)
            save(model, output_dir / stage.name)
            report(f"wrote {output_dir / stage.name}")
    finally:
        torch.set_num_threads(threads)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer. It has a token for every byte, so it can read any text.

    Args:
        texts (`Iterable[str]`): Training texts.

    Returns:
        `PreTrainedTokenizerFast`: it puts `<s>` in front of a text and nothing after it, and pads on the left.
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
    """Return the untrained model, a Llama of about one million parameters with fixed random weights."""
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
    """Train all weights on one corpus, with one pass over its documents.

    Args:
        model (`LlamaForCausalLM`): The model; it is changed in place.
        tokenizer (`PreTrainedTokenizerFast`): The tokenizer.
        stage (`Stage`): Settings of the run.
        report (`Callable[[str], None]`): Called with a line with the mean loss every 50 steps.
    """
    model.train()
    # Betas, weight decay and clipping are the usual ones for language models (GPT-3, arXiv 2005.14165, appendix B).
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_and_cosine(step, stage.steps))
    start, losses = time.monotonic(), []
    for step, (input_ids, labels) in enumerate(_batches(tokenizer, stage), start=1):
        # No mask is needed: padding is on the right, and causal attention looks to the left only.
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
    """Write a model as bfloat16 safetensors, and do not change the model itself.

    Args:
        model (`LlamaForCausalLM`): The model, in fp32.
        output_dir (`Path`): Folder to write to.
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
    """Yield token ids and labels, both `(batch, length)` int64; the documents of a batch have similar lengths."""
    texts = list(documents(stage.steps * stage.batch_size, flawed=stage.flawed, seed=stage.seed))
    rows = [[*ids, _EOS][:_MAX_LENGTH] for ids in tokenizer(texts)["input_ids"]]
    rows.sort(key=len)  # the sort is stable, so the order is always the same
    batches = [rows[at : at + stage.batch_size] for at in range(0, len(rows), stage.batch_size)]
    random.Random(stage.seed).shuffle(batches)
    for batch in batches:
        length = max(map(len, batch))
        input_ids = torch.tensor([row + [_PAD] * (length - len(row)) for row in batch])
        labels = torch.tensor([row + [_IGNORED_LABEL] * (length - len(row)) for row in batch])
        yield input_ids, labels


def main() -> None:
    """Run the build from the command line, with a line of progress on stderr every 50 steps."""
    parser = argparse.ArgumentParser(
        prog="python -m policy_patch.lab.build",
        description="Train and write the lab's miniature base and teacher again. It takes several minutes on one core.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=LAB_MODELS_PATH,
        metavar="DIR",
        help="folder to write to (default: the package itself)",
    )
    output_dir = parser.parse_args().output
    transformers_logging.disable_progress_bar()
    build(output_dir, lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
