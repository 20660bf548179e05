"""Tests of `training.interrupt`: the first Ctrl-C finishes the step and saves, the second one interrupts.

The signals are real ones, sent to this process or to one of its own.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl

from policy_patch.training.interrupt import StopOnSignal
from tests.processes import PATIENCE, started
from tests.training.synthetic import TRAINERS, losses, patched, sft_trainer, two_stage_trainer, vectors_of

ROOT = Path(__file__).parents[2]
SAVED = {"max_steps": 6, "save_strategy": "steps", "save_steps": 100}


class SendSignal(TrainerCallback):
    """Sends this process a signal while a step is under way."""

    def __init__(self, step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_second_interrupts(number):
    stop, control = StopOnSignal(), TrainerControl()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stop.listening():  # noqa: PT012
        assert not stop.received
        control = stop.on_step_end(None, None, control)
        assert not control.should_save and not control.should_training_stop
        os.kill(os.getpid(), number)
        assert stop.received
        control = stop.on_step_end(None, None, control)
        assert control.should_save and control.should_training_stop
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_new_run_forgets_the_signal_of_the_last_one():
    stop = StopOnSignal()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.received
    with stop.listening():
        assert not stop.received


def test_a_launched_process_takes_what_the_terminal_and_the_launcher_send_for_one_signal(monkeypatch):
    stop = StopOnSignal()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(KeyboardInterrupt), stop.listening():  # noqa: PT012
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received
        stop._when -= 3  # seconds later it is a second one
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_are_left_alone():
    seen, before = [], signal.getsignal(signal.SIGINT)

    def listen():
        with StopOnSignal().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("stage", TRAINERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_the_finished_step_and_resuming_gives_the_same_bits(stage, number, tmp_path):
    whole = patched()
    TRAINERS[stage](whole, tmp_path / "whole", **SAVED).train()
    cut = TRAINERS[stage](patched(), tmp_path / "cut", callbacks=[SendSignal(2, number)], **SAVED)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped at step 2 of 6\. A checkpoint was saved in `.*cut`"):
        cut.train()
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["checkpoint-2"]
    model = patched()
    TRAINERS[stage](model, tmp_path / "cut", **SAVED).train(resume_from_checkpoint=True)
    assert torch.equal(vectors_of(model), vectors_of(whole))


def test_a_signal_saves_even_where_no_checkpoints_were_asked_for(tmp_path):
    trainer = sft_trainer(patched(), tmp_path, callbacks=[SendSignal(1)], save_strategy="no")
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (tmp_path / "checkpoint-1" / "trainer_state.json").is_file()


def test_a_signal_in_the_last_step_loses_nothing_either(tmp_path):
    whole, model = patched(), patched()
    sft_trainer(whole, tmp_path / "whole", **SAVED).train()
    cut = sft_trainer(patched(), tmp_path / "cut", callbacks=[SendSignal(6)], **SAVED)
    with pytest.raises(KeyboardInterrupt, match="Stopped at step 6 of 6"):
        cut.train()
    resumed = sft_trainer(model, tmp_path / "cut", **SAVED)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(vectors_of(model), vectors_of(whole))
    assert len(losses(resumed.state.log_history)) == 6


def test_a_second_signal_interrupts_within_the_step(tmp_path):
    model = patched()
    trainer = sft_trainer(model, tmp_path, callbacks=[SendSignal(2, times=2)], **SAVED)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1
    assert not list(tmp_path.iterdir())


# The same command, twice, in a process of its own. It waits for the signal in the step that PAUSE_IN names.
COMMAND = """
import os, sys, time
import torch
torch.set_num_threads(1)
from policy_patch.training import PolicyPatchDPOTrainer, PolicyPatchSFTTrainer
from tests.training.synthetic import patched, two_stage_trainer

stage, _, pause = os.environ.get("PAUSE_IN", "none-0").partition("-")
for name, trainer_class in (("sft", PolicyPatchSFTTrainer), ("dpo", PolicyPatchDPOTrainer)):
    def step(self, *args, name=name, original=trainer_class.training_step, **kwargs):
        print(f"{name}-{self.state.global_step + 1}", flush=True)
        while (name, self.state.global_step + 1) == (stage, int(pause)) and not self._stop_on_signal.received:
            time.sleep(0.01)
        return original(self, *args, **kwargs)
    trainer_class.training_step = step

two_stage_trainer(patched(), sys.argv[1]).train()
print("finished", flush=True)
"""


def start(folder: Path, pause_in: str = "none-0") -> AbstractContextManager[subprocess.Popen]:
    return started(
        [sys.executable, "-W", "ignore::FutureWarning", "-c", COMMAND, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CI": "1", "PAUSE_IN": pause_in},
    )


def steps_in(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.startswith(("sft-", "dpo-"))]


def test_ctrl_c_ends_the_command_with_a_checkpoint_and_the_same_command_ends_with_the_same_bits(tmp_path):
    whole = two_stage_trainer(patched(), tmp_path / "whole")
    expected = whole.train()
    lines = []
    with start(tmp_path / "cut", pause_in="dpo-3") as process:
        for line in process.stdout:
            lines.append(line)
            if line.strip() == "dpo-3":
                process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert "KeyboardInterrupt: Stopped at step 3 of 6. A checkpoint was saved in" in errors
    assert steps_in(lines) == [*(f"sft-{step}" for step in range(1, 7)), "dpo-1", "dpo-2", "dpo-3"]
    assert (tmp_path / "cut" / "dpo" / "checkpoint-3" / "trainer_state.json").is_file()
    assert not (tmp_path / "cut" / "policy_patch.safetensors").exists(), "nothing that looks finished"

    with start(tmp_path / "cut") as process:
        out, errors = process.communicate(timeout=PATIENCE)
    assert out.splitlines()[-1] == "finished", errors
    assert steps_in(out.splitlines()) == ["dpo-4", "dpo-5", "dpo-6"]
    for part in (".", "sft", "dpo"):
        files = [tmp_path / run / part / "policy_patch.safetensors" for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert torch.equal(load_file(files[1])["patch"], vectors_of(whole.model))
    log = json.loads((tmp_path / "cut" / "training_log.json").read_text())
    assert losses(log["sft"]) == losses(expected.sft) and losses(log["dpo"]) == losses(expected.dpo)
