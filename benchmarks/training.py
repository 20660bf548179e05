"""Train the same prompt with this package and with PEFT + TRL: seconds a step, tokens per second, peak memory, losses.

    python benchmarks/training.py --output runs/training.json
    python benchmarks/training.py --device cuda --preset llama2-7b --batch_size 8 --output runs/training-7b.json

Both get the same random base, the same batches and the same vectors (`placement="before_bos"`, PEFT's), through TRL's
own trainers: PEFT's PromptTuning in `SFTTrainer` and `DPOTrainer`, ours in the classes that derive from them. A step
is forward, backward and AdamW. The two take turns, in random order; a ratio is of two neighbouring steps, and the
table has the median over them with quartiles in brackets. Memory is that of a process that runs one of the two, above
what it had before its first step. `DPO, each step` asks the reference (the vectors as they were) at each step;
`DPO, once` beforehand, which is this package's default where every row is seen. Every row of a batch has the same
number of real tokens, the first half of them prompt, so nothing is padded.
"""

import argparse
import copy
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from stored_run import made_with, refuse_others
from transformers import AutoModelForCausalLM, LlamaConfig

from policy_patch.files.atomic import write_whole

SMALL = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1536}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
PRESETS = {
    "small": (SMALL, "float32"),
    "small-vocabulary": ({**SMALL, "vocab_size": 2048}, "float32"),  # where the head weighs next to nothing
    "llama2-7b": ({}, "bfloat16"),  # LlamaConfig's own defaults are that shape; the weights are random
    "1b": (
        {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192},
        "bfloat16",
    ),
    "tiny": (TINY, "float32"),
}
WORK = {"SFT": ("sft", False), "DPO, each step": ("dpo", False), "DPO, once": ("dpo", True)}
SYSTEMS = ("policy-patch", "PEFT + TRL")


def main() -> None:
    args = parse()
    if args.memory_of:
        print(json.dumps(memory(args, *args.memory_of)))
        return
    results = []
    if args.output and args.output.is_file():
        stored = json.loads(args.output.read_text())
        refuse_others(stored["settings"], settings(args), args.output)
        results = stored["results"]
    for work in args.work:
        for tokens in args.tokens:
            if any((row["work"], row["tokens"]) == (work, tokens) for row in results):
                continue  # of a run that was stopped
            rows = args.batch_size * (2 if WORK[work][0] == "dpo" else 1)
            row = {"work": work, "tokens": tokens, "tokens_per_step": rows * tokens, **speed(args, work, tokens)}
            row["memory"] = {system: memory_in_own_process(args, system, work, tokens) for system in SYSTEMS}
            results.append(row)
            print(markdown(results[-1:]).splitlines()[-1], flush=True)
            if args.output:
                args.output.parent.mkdir(parents=True, exist_ok=True)
                write_whole(
                    args.output,
                    (json.dumps({"settings": settings(args), "results": results}, indent=1) + "\n").encode(),
                )
                write_whole(args.output.with_suffix(".md"), markdown(results).encode())
    print(markdown(results))


# What is compared


class Steps:
    """One system at one kind of work: a trainer that takes the steps it is told to."""

    def __init__(self, args: argparse.Namespace, system: str, work: str, base: Any, folder: str) -> None:
        stage, self.once = WORK[work]
        build = our_trainer if system == SYSTEMS[0] else peft_trainer
        self.trainer = build(args, stage, base, start_vectors(args, base), folder)
        trainer = self.trainer
        trainer.create_optimizer()
        trainer.model.train()
        self.model, self.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = self.model
        trainer.current_gradient_accumulation_steps = 1

    def prepare(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the batch as this system's trainer would get it."""
        batch = dict(batch)
        if self.once:  # asked before training, and not timed
            reference = self.trainer.ref_model or self.trainer.model
            batch["ref_chosen_logps"], batch["ref_rejected_logps"] = self.trainer.compute_ref_log_probs(
                reference, batch
            )
            self.trainer.precompute_ref_logps = True
        return batch

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """Take one step; return its loss."""
        labels = batch.get("labels")
        items = None if labels is None else (labels[:, 1:] != -100).sum()
        loss = self.trainer.training_step(self.model, dict(batch), items)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss)


def our_trainer(args: argparse.Namespace, stage: str, base: Any, vectors: torch.Tensor, folder: str) -> Any:
    from policy_patch import PolicyPatchConfig, get_policy_patch_model
    from policy_patch import training as ours

    config = PolicyPatchConfig(num_virtual_tokens=args.vectors, init="vocab", placement="before_bos")
    model = get_policy_patch_model(base, config)
    with torch.no_grad():
        model.patches["default"].copy_(vectors)
    config_class = {"sft": ours.PolicyPatchSFTConfig, "dpo": ours.PolicyPatchDPOConfig}[stage]
    trainer_class = {"sft": ours.PolicyPatchSFTTrainer, "dpo": ours.PolicyPatchDPOTrainer}[stage]
    more = {"precompute_ref_log_probs": False} if stage == "dpo" else {}
    return trainer_class(
        model, config_class(**trainer_settings(args, folder), **more), train_dataset=any_rows(stage),
        processing_class=tokenizer(),
    )  # fmt: skip


def peft_trainer(args: argparse.Namespace, stage: str, base: Any, vectors: torch.Tensor, folder: str) -> Any:
    from peft import PromptTuningConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=args.vectors, prompt_tuning_init="RANDOM")
    model = get_peft_model(base, config)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(vectors)
    config_class, trainer_class = {"sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer)}[stage]
    return trainer_class(
        model, args=config_class(**trainer_settings(args, folder), activation_checkpointing=False),
        train_dataset=any_rows(stage), processing_class=tokenizer(),
    )  # fmt: skip


def trainer_settings(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Return what both trainers are told. Base and vectors have their types, so autocast stays off."""
    return {
        "output_dir": folder, "max_steps": 1, "learning_rate": 1e-3, "report_to": "none", "bf16": False,
        "use_cpu": args.device == "cpu", "dataloader_pin_memory": False, "save_strategy": "no", "disable_tqdm": True,
        "per_device_train_batch_size": 1,
    }  # fmt: skip


def any_rows(stage: str) -> Any:
    """Return rows that only get the trainer built; the batches that are measured are made here."""
    from datasets import Dataset

    answers = {"completion": [" kind"] * 2} if stage == "sft" else {"chosen": [" kind"] * 2, "rejected": [" rude"] * 2}
    return Dataset.from_dict({"prompt": ["You are"] * 2, **answers})


def tokenizer() -> Any:
    from policy_patch.lab import load_lab_tokenizer

    return load_lab_tokenizer()


def random_base(args: argparse.Namespace) -> Any:
    """Return a Llama of the preset's shape with random weights, the same ones at each call."""
    shape, dtype = PRESETS[args.preset]
    torch.manual_seed(0)
    with torch.device(args.device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=getattr(torch, dtype))
    return model.eval()


def start_vectors(args: argparse.Namespace, base: Any) -> torch.Tensor:
    """Return the vectors both start from: rows of the embedding table, `(vectors, hidden)` in fp32."""
    return base.get_input_embeddings().weight[100 : 100 + args.vectors].detach().float().clone()


def batches(args: argparse.Namespace, work: str, tokens: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Return batches of rows of `tokens` real tokens, BOS first, as TRL's collators make them; half is prompt."""
    stage, _ = WORK[work]
    rows = args.batch_size * (2 if stage == "dpo" else 1)  # chosen answers, then rejected ones
    vocabulary = LlamaConfig(**PRESETS[args.preset][0]).vocab_size
    generator = torch.Generator().manual_seed(tokens)
    made = []
    for _ in range(count):
        ids = torch.randint(3, vocabulary, (rows, tokens), generator=generator)
        ids[:, 0] = LlamaConfig().bos_token_id
        half = tokens // 2
        if stage == "dpo":
            ids[args.batch_size :, :half] = ids[: args.batch_size, :half]
        answers = torch.ones_like(ids)
        answers[:, :half] = 0
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if stage == "dpo":
            batch["completion_mask"] = answers
        else:
            batch["labels"] = ids.masked_fill(answers == 0, -100)
        made.append({name: tensor.to(args.device) for name, tensor in batch.items()})
    return made


# What is measured


def speed(args: argparse.Namespace, work: str, tokens: int) -> dict[str, Any]:
    """Return the seconds of each step of both systems, and their losses."""
    base = random_base(args)
    with tempfile.TemporaryDirectory() as folder:
        systems = {system: Steps(args, system, work, copy.deepcopy(base), folder) for system in SYSTEMS}
        del base
        made = batches(args, work, tokens, args.warmup + args.runs)
        order = random.Random(0)
        seconds: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        losses: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        prepared = {system: [steps.prepare(batch) for batch in made] for system, steps in systems.items()}
        for number in range(len(made)):
            for system in order.sample(SYSTEMS, 2):
                synchronise(args)
                start = time.perf_counter()
                loss = systems[system].step(prepared[system][number])
                synchronise(args)
                losses[system].append(loss)
                if number >= args.warmup:
                    seconds[system].append(time.perf_counter() - start)
    return {"seconds": seconds, "losses": losses}


def memory(args: argparse.Namespace, system: str, work: str, tokens: str) -> dict[str, float]:
    """Return this process' peak memory during steps in MiB: in all, and above what it had before the first."""
    base = random_base(args)
    made = batches(args, work, int(tokens), 4)
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(args, system, work, base, folder)
        prepared = [steps.prepare(batch) for batch in made]
        before = reset_peak(args)
        for batch in prepared:
            steps.step(batch)
        peak = peak_memory(args)
    return {"total": peak, "above": peak - before}


def memory_in_own_process(args: argparse.Namespace, system: str, work: str, tokens: int) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--memory_of", system, work, str(tokens), "--preset", args.preset, "--device",
        args.device, "--batch_size", str(args.batch_size), "--vectors", str(args.vectors),
        "--threads", str(args.threads),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def reset_peak(args: argparse.Namespace) -> float:
    """Forget the peak so far; return what is in use, in MiB."""
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return proc_status("VmRSS")


def peak_memory(args: argparse.Namespace) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else proc_status("VmHWM")


def proc_status(name: str) -> float:
    """Return a figure of Linux' /proc/self/status, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def synchronise(args: argparse.Namespace) -> None:
    if args.device == "cuda":
        torch.cuda.synchronize()


# What is shown


def settings(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    names = ("preset", "vectors", "batch_size", "runs", "warmup")
    return {"device": device, **{name: getattr(args, name) for name in names}, **made_with()}


def markdown(results: list[dict]) -> str:
    lines = [
        "| work | real tokens a row | ours, tokens/s | PEFT + TRL, tokens/s | times as fast | memory of a step, of "
        "theirs | whole process, of theirs | largest difference of losses |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results:
        ours, theirs = (row["seconds"][system] for system in SYSTEMS)
        low, middle, high = statistics.quantiles([b / a for a, b in zip(ours, theirs, strict=True)], n=4)
        own, other = (row["memory"][system] for system in SYSTEMS)
        difference = max(abs(a - b) for a, b in zip(*row["losses"].values(), strict=True))
        cells = [
            row["work"],
            str(row["tokens"]),
            *(f"{row['tokens_per_step'] / statistics.median(s):,.0f}" for s in (ours, theirs)),
            f"{middle:.2f} [{low:.2f}, {high:.2f}]",
            f"{own['above'] / other['above']:.2f} ({own['above']:,.0f} of {other['above']:,.0f} MiB)",
            f"{own['total'] / other['total']:.2f}",
            f"{difference:.0e}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, on a CPU")
    parser.add_argument("--vectors", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=8, help="rows of SFT, pairs of DPO")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128], help="real tokens a row")
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--runs", type=int, default=15, help="timed steps of each system")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file of the figures, JSON; the table goes beside it")
    parser.add_argument(
        "--memory_of", nargs=3, help=argparse.SUPPRESS
    )  # system, work, tokens: what a child process does
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


if __name__ == "__main__":
    main()
