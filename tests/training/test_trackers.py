"""Tests of `training.trackers`: what is logged is in the trackers, each stage in a run of its own."""

import json
import logging
import struct
from pathlib import Path

import pytest
from transformers.integrations import WandbCallback

from policy_patch.training.trackers import name_run
from tests.training.synthetic import losses, patched, preference_pairs, sft_trainer, two_stage_trainer

STAGES = ("sft", "dpo")


def train(folder, tracker, **changes):
    """Run both stages with a tracker, and return what the trainers logged."""
    settings = {"report_to": tracker, "save_strategy": "no", **changes}
    return two_stage_trainer(patched(), folder, sft=settings, dpo=settings).train()


def test_a_run_is_named_after_the_folder_and_the_stage(tmp_path):
    args = sft_trainer(patched(), tmp_path).args
    assert name_run(args, "sft", str(tmp_path / "tox-patch")).run_name == "tox-patch-sft"
    args.run_name = "mine"
    assert name_run(args, "dpo", str(tmp_path)).run_name == "mine-dpo"


# TensorBoard


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Read all scalars of the event files below a folder: by name, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
    return found


def expected(entries, name):
    return {entry["step"]: pytest.approx(entry[name]) for entry in entries if name in entry and "loss" in entry}


def test_tensorboard_has_every_figure_of_every_step_of_both_stages(tmp_path):
    pytest.importorskip("tensorboard")
    log = train(tmp_path, "tensorboard")
    for stage, entries in (("sft", log.sft), ("dpo", log.dpo)):
        found = scalars(tmp_path / stage)
        for name in ("loss", "learning_rate", "patch/norm", "patch/distance"):
            wanted = expected(entries, name)
            assert {step: found[f"train/{name}"][step] for step in wanted} == wanted
    assert "train/rewards/margins" in scalars(tmp_path / "dpo") and "train/rewards/margins" not in scalars(
        tmp_path / "sft"
    )


def test_one_tensorboard_folder_for_all_keeps_the_stages_apart(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))
    log = train(tmp_path / "run", "tensorboard")
    for stage, entries in (("sft", log.sft), ("dpo", log.dpo)):
        assert scalars(tmp_path / "boards" / stage)["train/loss"] == expected(entries, "loss")


def test_evaluations_are_in_tensorboard_too(tmp_path):
    pytest.importorskip("tensorboard")
    settings = {"report_to": "tensorboard", "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"}
    log = two_stage_trainer(
        patched(), tmp_path, sft=settings, dpo={"max_steps": 0}, eval_dataset=preference_pairs(4)
    ).train()
    assert list(scalars(tmp_path / "sft")["eval/loss"].values()) == pytest.approx(losses(log.sft, "eval_loss"))


# wandb, offline


def records(path: Path) -> list[bytes]:
    """Return the records of a wandb file: the format of LevelDB's log, in blocks of 32 KB, behind 7 bytes of header."""
    content, place, out, part = path.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole, or the last part
            out, part = [*out, part], b""
    return out


def offline_runs(folder: Path) -> dict[str, tuple[list[dict], int, str]]:
    """Return of each wandb run below a folder, by name, its history, its exit code and all of its bytes as text."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # all that is in its process is in the files then
    runs = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        history, name, code = [], None, None
        for content in records(path):
            record = Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name or name
            elif kind == "history":
                items = record.history.item
                history.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
            elif kind == "exit":
                code = record.exit.exit_code
        runs[name] = (history, code, path.read_bytes().decode("latin-1"))
    return runs


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """wandb, offline, in a folder of this test."""
    module = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield module
    module.teardown()  # it reads where to write once, and would stay there


def test_wandb_gets_a_run_for_each_stage_with_every_figure(wandb, tmp_path):
    log = train(tmp_path / "tox-patch", "wandb", hub_token="hf_secret")
    assert wandb.run is None, "no run is left open"
    runs = offline_runs(tmp_path / "wandb")
    assert list(runs) == ["tox-patch-sft", "tox-patch-dpo"]
    for (history, code, content), entries in zip(runs.values(), (log.sft, log.dpo)):
        assert code == 0
        for name in ("loss", "patch/norm", "patch/distance"):
            sent = {row["train/global_step"]: row[f"train/{name}"] for row in history if "train/loss" in row}
            assert sent == expected(entries, name)
        assert "hf_secret" not in content


def test_a_wandb_run_of_the_user_stays_open_and_gets_both_stages(wandb, tmp_path):
    mine = wandb.init(project="mine", name="mine")
    train(tmp_path / "tox-patch", "wandb")
    assert wandb.run is mine
    wandb.finish()
    runs = offline_runs(tmp_path / "wandb")
    assert list(runs) == ["mine"]
    history = runs["mine"][0]
    assert len([row for row in history if "train/loss" in row]) == 12


def test_a_stage_that_fails_ends_its_wandb_run_as_failed(wandb, tmp_path):
    from policy_patch.errors import TrainingError

    with pytest.raises(TrainingError):
        train(tmp_path / "tox-patch", "wandb", learning_rate=1e30)
    assert wandb.run is None
    assert offline_runs(tmp_path / "wandb")["tox-patch-sft"][1] == 1


def test_wandb_never_uploads_the_base(wandb, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_LOG_MODEL", "end")
    with caplog.at_level(logging.WARNING, "policy_patch.training.trackers"):
        trainer = sft_trainer(patched(), tmp_path / "run", report_to="wandb")
        trainer.train()
    tracker = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, WandbCallback))
    assert not tracker._log_model.is_enabled
    assert "`WANDB_LOG_MODEL` is ignored, because it would upload the whole base" in caplog.text
    wandb.finish()
    assert "embed_tokens" not in next(iter(offline_runs(tmp_path / "wandb").values()))[2]


# trackio, on this machine


def test_trackio_gets_a_run_for_each_stage_with_every_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported: by this test alone
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    log = train(tmp_path / "tox-patch", "trackio", project="patches")
    assert set(SQLiteStorage.get_runs("patches")) == {"tox-patch-sft", "tox-patch-dpo"}
    for stage, entries in (("sft", log.sft), ("dpo", log.dpo)):
        sent = [row for row in SQLiteStorage.get_logs("patches", f"tox-patch-{stage}") if "train/loss" in row]
        for name in ("loss", "patch/norm", "patch/distance"):
            assert {row["train/global_step"]: row[f"train/{name}"] for row in sent} == expected(entries, name)
