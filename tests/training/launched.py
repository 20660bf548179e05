"""What the tests start with `accelerate launch`: scenarios by name, whose results each process leaves in a file.

accelerate launch ... tests/training/launched.py <folder> <rows per process and step> <scenario> ...
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from policy_patch.errors import PolicyPatchError
from policy_patch.patch.vectors import whole
from policy_patch.training import PolicyPatchDPOTrainer, PolicyPatchSFTTrainer
from tests.tiny_models import tiny_model
from tests.training.synthetic import TRAINERS, losses, patched, two_stage_trainer, upstream_trainer

SAVED = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
SFT = {"max_vector_norm": 3.0}
REFERENCES = ("sft", "base", "teacher")
OF_TRL = ("SFTTrainer", "DPOTrainer")


def result(model: Any, **logs: list) -> dict[str, Any]:
    """Return the losses of each stage and the final vectors."""
    vectors = whole(model.patches["default"]).tolist()
    return {"losses": {stage: losses(entries) for stage, entries in logs.items()}, "vectors": vectors}


def one_stage(folder: Path, batch: int, stage: str, resume: bool = False, **more: Any) -> dict[str, Any]:
    """Train one stage, or go on with it from what its folder holds."""
    model = patched()
    trainer = TRAINERS[stage](model, folder, per_device_train_batch_size=batch, **SAVED, **more)
    trainer.train(resume_from_checkpoint=resume or None)
    return result(model, **{stage: trainer.state.log_history})


def both_stages(folder: Path, batch: int, **more: Any) -> dict[str, Any]:
    """Train both stages, or go on with them."""
    settings = {"per_device_train_batch_size": batch}
    model = patched()
    log = two_stage_trainer(model, folder, sft=settings, dpo={**settings, **more.pop("dpo", {})}, **more).train()
    return result(model, sft=log.sft, dpo=log.dpo)


class SignalInOne(TrainerCallback):
    """Sends a signal to the last process alone, in the third step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2 and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGINT)


def stopped(folder: Path, batch: int) -> dict[str, Any]:
    """Stop in the third step because one process got a signal, and go on."""
    try:
        one_stage(folder, batch, "sft", callbacks=[SignalInOne()], **SFT)
    except KeyboardInterrupt as error:
        words = str(error)
    return {"words": words, **one_stage(folder, batch, "sft", resume=True, **SFT)}


def claimed(folder: Path, batch: int) -> dict[str, Any]:
    """Start a run where another one is."""
    two_stage_trainer(patched(), folder)
    try:
        two_stage_trainer(patched(), folder, seed=7)
    except PolicyPatchError as error:
        return {"words": f"{type(error).__name__}: {error}"}
    return {"words": ""}


def resumed(folder: Path, batch: int) -> dict[str, Any]:
    """Go on from the fourth step of a finished run."""
    one_stage(folder, batch, "dpo")
    torch.distributed.barrier()
    if os.environ["RANK"] == "0":
        (folder / "checkpoint-6").rename(folder / "hidden")
    torch.distributed.barrier()
    return one_stage(folder, batch, "dpo", resume=True)


def upstream(folder: Path, batch: int, kind: str) -> dict[str, Any]:
    """Train with a trainer of TRL, which is given a patched model."""
    model = patched()
    trainer = upstream_trainer(kind, model, folder, per_device_train_batch_size=batch, **SAVED)
    trainer.train()
    return result(model, **{kind: trainer.state.log_history})


SCENARIOS = {
    "sft": lambda folder, batch: one_stage(folder, batch, "sft", **SFT),
    **{
        f"dpo-{name}": lambda folder, batch, name=name: one_stage(
            folder, batch, "dpo", reference=name, teacher=tiny_model(seed=3) if name == "teacher" else None
        )
        for name in REFERENCES
    },
    **{kind: lambda folder, batch, kind=kind: upstream(folder, batch, kind) for kind in OF_TRL},
    "both": both_stages,
    "cut": both_stages,
    "resumed": resumed,
    "stopped": stopped,
    "claimed": claimed,
}


def hurt(trainer_class: type, stage: str) -> None:
    """Let the last process die in the step that KILL_IN names, and all wait for a signal in the one WAIT_IN names."""
    original = trainer_class.training_step

    def step(self, *args: Any, **kwargs: Any) -> Any:
        here = f"{stage}-{self.state.global_step + 1}"
        if here == os.environ.get("KILL_IN") and self.args.process_index == self.args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if here == os.environ.get("WAIT_IN"):
            Path(sys.argv[1], f"waiting-{self.args.process_index}").touch()
            while not self._stop_on_signal.received:
                time.sleep(0.01)
        return original(self, *args, **kwargs)

    trainer_class.training_step = step


def shard_on_the_cpu() -> None:
    """Let accelerate 1.15 shard without a GPU too: it would run DDP instead, without a word."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def init(self, mixed_precision=None, cpu=False, **kwargs):
        PartialState(cpu=True)
        if PartialState._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        original(self, mixed_precision, **kwargs)

    AcceleratorState.__init__ = init


def main() -> None:
    torch.set_num_threads(1)
    folder, batch, *names = sys.argv[1:]
    for stage, trainer_class in (("sft", PolicyPatchSFTTrainer), ("dpo", PolicyPatchDPOTrainer)):
        hurt(trainer_class, stage)
    if any(os.environ.get(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED")):
        shard_on_the_cpu()
    results = {name: SCENARIOS[name](Path(folder, name), int(batch)) for name in names}
    Path(folder, f"results-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
