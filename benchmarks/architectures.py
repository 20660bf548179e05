"""Every causal LM class of the installed transformers, built tiny, patched, and held against the definition.

    python benchmarks/architectures.py --output runs/architectures.json
    python benchmarks/architectures.py --only llama gemma2 mamba

The definition, in the plainest words: the vectors between the token embeddings, one row at a time, no cache and no
padding. Asked are one call, greedy decoding of 8 tokens with the model's cache, a batch of unequal rows padded on the
left, and the gradient of the vectors; beside it PEFT's PromptTuning with the same vectors, in its own order. There are
more vectors than a sliding window has places. Each class runs in a process of its own; one that cannot be built is
counted as that. Exact is a difference of at most 1e-4 of the largest logit, of at most 1e-3 of the largest gradient,
and the same tokens.
"""

import argparse
import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stored_run import claim
from tiny_configs import tiny_config
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from policy_patch import PolicyPatchConfig, PolicyPatchError, PolicyPatchModel, get_policy_patch_model
from policy_patch.files.atomic import write_whole
from policy_patch.report.tables import markdown_table

NUM_VECTORS, NUM_NEW = 12, 8
ROWS = [[1, 17, 33, 90, 64, 5, 71], [1, 40, 8], [1, 120, 66, 13, 99]]  # BOS is 1, no padding (0), no end (2)
TOLERANCE = {"gradient": 1e-3}  # a gradient sums more terms than a logit; else OF_LOGITS
OF_LOGITS = 1e-4
ASKED = ("forward", "generate", "left-padded", "gradient")
LARGEST = 50_000_000  # parameters; what is larger was not built tiny


def main() -> None:
    args = parse()
    types = args.only or [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name != PolicyPatchModel.__name__]
    found: dict[str, dict[str, str]] = {}
    if args.output:
        claim(args.output.with_suffix(".run.json"), {})
    if args.output and args.output.is_file():
        found = json.loads(args.output.read_text())
    for number, model_type in enumerate(types):
        if model_type in found:
            continue  # of a run that was stopped
        found[model_type] = in_own_process(model_type, args.patience)
        print(f"{number + 1}/{len(types)} {model_type}: {found[model_type]}", file=sys.stderr, flush=True)
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_whole(args.output, (json.dumps(found, indent=1) + "\n").encode())
    print(markdown(found))


def in_own_process(model_type: str, patience: float) -> dict[str, str]:
    """Return what `look_at` finds; a process that dies or hangs is an answer too."""
    context = multiprocessing.get_context("fork")  # the imports are done once
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, model_type), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(patience) else {"built": f"no: not done after {patience:g} s"}
    except EOFError:
        return {"built": "no: its process died"}
    finally:
        process.kill()
        process.join()


def _send(pipe: Any, model_type: str) -> None:
    pipe.send(look_at(model_type))


def look_at(model_type: str) -> dict[str, str]:
    """Return for one family whether it was built, which way the patch goes, and how each question was answered."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        base = built(model_type)
    except Exception as error:  # of 189 families, anything; it is the answer
        return {"built": f"no: {said(error)}"}
    embeddings = base.get_input_embeddings()
    torch.manual_seed(1)
    with torch.no_grad():
        vectors = embeddings(torch.randint(3, 150, (NUM_VECTORS,))).float()
        vectors = vectors + 0.5 * vectors.std() * torch.randn_like(vectors)
    answers = {"built": type(base).__name__}
    answers |= theirs(base, vectors)
    try:
        # Some configurations name no BOS; the definition has it first in each row.
        config = PolicyPatchConfig(num_virtual_tokens=NUM_VECTORS, init="vocab", bos_token_id=ROWS[0][0])
        model = get_policy_patch_model(base, config)
    except PolicyPatchError as error:
        return answers | {"way": f"refused: {said(error)}"}
    answers["way"] = "cached" if model._injection.cacheable else "concatenated"
    with torch.no_grad():
        model.patches["default"].copy_(vectors)
    for name, ask in zip(ASKED, (forward, generate, left_padded, gradient), strict=True):
        model.patches["default"].requires_grad_(ask is gradient)  # what serves is frozen
        answers[name] = answer(ask, model, base, vectors, True)
    return answers


def built(model_type: str) -> Any:
    config = tiny_config(model_type)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters, not tiny")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).float().eval()
    base.generation_config.forced_eos_token_id = None  # BART's own rule for the last token is not asked about
    with torch.no_grad():
        base(input_ids=torch.tensor(ROWS[:1]))
    return base


def theirs(base: Any, vectors: torch.Tensor) -> dict[str, str]:
    """Return the answers of PEFT's PromptTuning, which puts the vectors in front of BOS."""
    from peft import PromptTuningConfig, get_peft_model

    try:
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=NUM_VECTORS)
        model = get_peft_model(base, config)
        with torch.no_grad():
            model.prompt_encoder["default"].embedding.weight.copy_(vectors)
    except Exception as error:  # as above
        return {f"PEFT {name}": f"error: {said(error)}" for name in ASKED[:3]}
    return {
        f"PEFT {name}": answer(ask, model, base, vectors, False)
        for name, ask in zip(ASKED[:3], (forward, generate, left_padded), strict=True)
    }


def answer(ask: Callable[..., float | bool], *given: Any) -> str:
    try:
        found = ask(*given)
    except Exception as error:  # as above; an error is not counted as exact
        return f"error: {said(error)}"
    if isinstance(found, bool):
        return "exact" if found else "other tokens"
    return "exact" if found <= TOLERANCE.get(ask.__name__, OF_LOGITS) else f"off by {found:.1e}"


# What is asked


def forward(model: Any, base: Any, vectors: torch.Tensor, after_bos: bool) -> float:
    with torch.no_grad():
        found = model(input_ids=torch.tensor(ROWS[:1])).logits[0, -len(ROWS[0]) :]
        return difference(found, by_definition(base, vectors, ROWS[0], after_bos))


def generate(model: Any, base: Any, vectors: torch.Tensor, after_bos: bool) -> bool:
    ids = torch.tensor(ROWS[:1])
    told = {"do_sample": False, "max_new_tokens": NUM_NEW, "min_new_tokens": NUM_NEW, "pad_token_id": 0}
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **told)[0].tolist()[-NUM_NEW:]
    row = list(ROWS[0])
    with torch.no_grad():
        for _ in range(NUM_NEW):
            logits = by_definition(base, vectors, row, after_bos)[-1].clone()
            logits[base.config.get_text_config().eos_token_id or 0] = -torch.inf  # as `min_new_tokens` does
            row.append(int(logits.argmax()))
    return found == row[-NUM_NEW:]


def left_padded(model: Any, base: Any, vectors: torch.Tensor, after_bos: bool) -> float:
    longest = max(map(len, ROWS))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in ROWS])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ROWS])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        return max(
            difference(logits[number, -len(row) :], by_definition(base, vectors, row, after_bos))
            for number, row in enumerate(ROWS)
        )


def gradient(model: Any, base: Any, vectors: torch.Tensor, after_bos: bool) -> float:
    parameter = model.patches["default"]
    model(input_ids=torch.tensor(ROWS[:1])).logits[0].float().pow(2).mean().backward()
    plain = vectors.clone().requires_grad_()
    by_definition(base, plain, ROWS[0], after_bos).pow(2).mean().backward()
    return difference(parameter.grad, plain.grad)


def by_definition(base: Any, vectors: torch.Tensor, row: list[int], after_bos: bool) -> torch.Tensor:
    """Return `(len(row), vocabulary)`: the definition, see docs/architectures.md."""
    embeds = base.get_input_embeddings()(torch.tensor([row]))
    at = int(after_bos)
    whole = torch.cat([embeds[:, :at], vectors.to(embeds.dtype).unsqueeze(0), embeds[:, at:]], dim=1)
    return base(inputs_embeds=whole, use_cache=False).logits[0, len(vectors) :].float()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


# What is shown


def markdown(found: dict[str, dict[str, str]]) -> str:
    """Return the table of all families that were built, and the counts."""
    names = ["way", *ASKED, *(f"PEFT {name}" for name in ASKED[:3])]
    there = {kind: row for kind, row in found.items() if not row["built"].startswith("no")}
    table = [
        {"model_type": kind, **{name: shortly(row.get(name, "")) for name in names}} for kind, row in there.items()
    ]
    counts = [
        {
            "": name,
            "patch": str(exact(there, name)),
            "PEFT": str(exact(there, f"PEFT {name}")) if name in ASKED[:3] else "not asked",
        }
        for name in ASKED
    ]
    all_three = sum(all(row.get(name) == "exact" for name in ASKED[:3]) for row in there.values())
    ways = Counter(row["way"].partition(":")[0] for row in there.values())
    wrong = sum(any(row.get(name, "").startswith(("off by", "other")) for name in ASKED) for row in there.values())
    return "\n\n".join(
        [
            f"{len(found)} families, {len(there)} built; ways: {dict(ways)}; exact in forward, cached generation and a "
            f"left-padded batch: {all_three}; wrong without an error: {wrong}.",
            markdown_table(counts),
            markdown_table(table),
        ]
    )


def exact(rows: dict[str, dict[str, str]], name: str) -> int:
    return sum(row.get(name) == "exact" for row in rows.values())


def shortly(text: str) -> str:
    return text.replace("|", "/")[:90]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL_TYPE", help="these families; all")
    parser.add_argument("--output", type=Path, help="JSON of all answers; a stopped run goes on from it")
    parser.add_argument("--patience", type=float, default=60, help="seconds for one family; %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
