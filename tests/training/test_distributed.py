"""Two processes on a CPU, started by `accelerate launch` with the files of `examples/accelerate`, train as one does.

`launched.py` holds what they run; results of all scenarios of one launch are looked at by several tests.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from policy_patch.patch.folder import read_patch_folder
from tests.processes import PATIENCE, started
from tests.training.launched import OF_TRL, REFERENCES, SCENARIOS, SFT
from tests.training.synthetic import HIDDEN_SIZE, NUM_VIRTUAL_TOKENS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "accelerate"
NOISE = 1e-5  # gradients are summed in another order
STAGES = ("sft", *(f"dpo-{reference}" for reference in REFERENCES))

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # of TRL's own settings
]


def start(folder: Path, config: str, *scenarios: str, **environment: str) -> AbstractContextManager[subprocess.Popen]:
    """Start two processes with two rows each, in a process group of their own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / config]
    command += ["--num_processes", "2", "--main_process_port", "0"]
    return started(
        [*command, ROOT / "tests" / "training" / "launched.py", folder, "2", *scenarios],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def launch(folder: Path, config: str, *scenarios: str) -> list[dict]:
    """Run the scenarios and return the results of each process."""
    with start(folder, config, *scenarios) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return [json.loads((folder / f"results-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Results of one process with twice the rows."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: SCENARIOS[name](folder / name, 4) for name in (*STAGES, *OF_TRL, "both")}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Folder of a run that was killed in its first stage and interrupted in its second, and what that looked like."""
    folder, seen = tmp_path_factory.mktemp("ddp"), {}
    with start(folder, "ddp.yaml", "cut", KILL_IN="sft-5") as killed:
        seen["killed"], _ = killed.communicate(timeout=PATIENCE)
    seen["after_kill"] = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    with start(folder, "ddp.yaml", "cut", WAIT_IN="dpo-3") as waiting:
        while len(list(folder.glob("waiting-*"))) < 2:
            assert waiting.poll() is None, waiting.stdout.read()
            time.sleep(0.02)
        os.killpg(waiting.pid, signal.SIGINT)  # as a terminal does; the launcher hands it on
        seen["interrupted"], _ = waiting.communicate(timeout=PATIENCE)
    seen["codes"] = killed.returncode, waiting.returncode
    seen["checkpoints"] = sorted(path.name for path in (folder / "cut" / "dpo").glob("checkpoint-*"))
    return folder, seen


@pytest.fixture(scope="module")
def ddp(cut):
    """Folder and results of the launch with DDP, which also ends the run that was cut."""
    return cut[0], launch(cut[0], "ddp.yaml", *STAGES, *OF_TRL, "both", "cut", "stopped", "claimed")


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory):
    """Folder and results of the launch with FSDP2."""
    folder = tmp_path_factory.mktemp("fsdp2")
    return folder, launch(folder, "fsdp2.yaml", *STAGES, "both", "resumed")


def assert_same_trajectory(found: dict, expected: dict) -> None:
    for stage, values in expected["losses"].items():
        assert len(values) == 6
        assert found["losses"][stage] == pytest.approx(values, abs=NOISE)
    vectors, expected_vectors = torch.tensor(found["vectors"]), torch.tensor(expected["vectors"])
    assert vectors.shape == (NUM_VIRTUAL_TOKENS, HIDDEN_SIZE)
    assert (vectors - expected_vectors).abs().max() < NOISE


@pytest.mark.parametrize("name", [*STAGES, "both"])
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_does_with_twice_the_rows(way, name, alone, request):
    _, results = request.getfixturevalue(way)
    assert results[0][name] == results[1][name], "every process holds the same vectors"
    assert_same_trajectory(results[0][name], alone[name])


@pytest.mark.parametrize("name", OF_TRL)
def test_trl_s_own_trainers_train_a_patch_in_two_processes_too(name, alone, ddp):
    folder, results = ddp
    assert results[0][name] == results[1][name], "every process holds the same vectors"
    assert_same_trajectory(results[0][name], alone[name])
    assert read_patch_folder(folder / name / "checkpoint-6")[1].tolist() == results[0][name]["vectors"]
    assert {path.name for path in (folder / name).iterdir()} == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_one_process_writes_and_old_checkpoints_go(way, request):
    folder, results = request.getfixturevalue(way)
    for name in STAGES:
        assert sorted(path.name for path in (folder / name).iterdir()) == ["checkpoint-4", "checkpoint-6"]
        files = {path.name for path in (folder / name / "checkpoint-6").iterdir()}
        assert {"policy_patch.safetensors", "policy_patch_config.json", "trainer_state.json"} <= files
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= files, "each process has random numbers of its own"
        assert sum(path.stat().st_size for path in (folder / name / "checkpoint-6").iterdir()) < 60_000
        saved = read_patch_folder(folder / name / "checkpoint-6")[1]
        assert saved.tolist() == results[0][name]["vectors"]
    log = json.loads((folder / "both" / "training_log.json").read_text())
    assert [entry["loss"] for entry in log["dpo"] if "loss" in entry] == results[0]["both"]["losses"]["dpo"]
    assert not list(folder.rglob("*.pending"))


def test_a_sharded_run_goes_on_from_a_checkpoint_with_the_same_bits(fsdp2):
    for result in fsdp2[1]:
        assert result["resumed"]["vectors"] == result["dpo-sft"]["vectors"]


def test_a_signal_to_one_process_stops_all_in_the_same_step_with_one_checkpoint(ddp):
    for result in ddp[1]:
        assert "Stopped at step 3 of 6. A checkpoint was saved in" in result["stopped"]["words"]
        assert result["stopped"]["vectors"] == result["sft"]["vectors"]
    assert SFT["max_vector_norm"] > 0, "both ran with the limit"


def test_a_folder_that_holds_another_run_is_refused_in_every_process(ddp):
    words = [result["claimed"]["words"] for result in ddp[1]]
    assert all("holds another run: `seed` was 42, is now 7" in text for text in words)
    assert all(text.startswith("TrainingError") for text in words)


def test_kill_9_and_ctrl_c_cost_steps_but_no_bit(cut, ddp):
    _, seen = cut
    assert 0 not in seen["codes"]
    assert "cut/sft/checkpoint-4/trainer_state.json" in seen["after_kill"], seen["killed"]
    assert "cut/sft/policy_patch.safetensors" not in seen["after_kill"], "nothing that looks finished"
    assert "Stopped at step 3 of 6. A checkpoint was saved in" in seen["interrupted"]
    assert seen["checkpoints"] == ["checkpoint-2", "checkpoint-3"], seen["interrupted"]
    for result in ddp[1]:
        assert result["cut"] == result["both"]
