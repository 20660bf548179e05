"""A served patch is watched through the real gateway: steady while it is there, an alarm when it is gone."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policy_patch.errors import ConfigError, DataError, LockMismatchError
from policy_patch.hub.lock_history import lock_sha256, write_lock
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.recipes.drift import DriftRecipe
from policy_patch.recipes.served_sample import Measuring
from policy_patch.release import lock_stack
from policy_patch.release.drift_history import append_look, read_history
from tests.recipes.served_release import PROMPTS, gateway, released


@pytest.fixture(scope="module")
def served():
    with gateway(f"tox={released()}") as (url, engine):
        yield url, engine


def recipe(url, tmp_path, **values):
    settings = {
        "url": url, "patch": f"tox={released()}", "model": "base+tox", "prompts": PROMPTS, "num_prompts": 24,
        "looks": 10, "history": str(tmp_path / "drift.jsonl"),
    }  # fmt: skip
    return DriftRecipe(**{**settings, **values})


def test_a_served_patch_is_steady_and_its_absence_is_an_alarm(served, tmp_path):
    url, engine = served
    notes = []
    before = engine.asked
    look = recipe(url, tmp_path).run(on_note=notes.append)
    assert (look.verdict, look.exit_code, look.reasons) == ("steady", 0, []) and look.look == 1
    assert (look.patch, look.version, look.model) == ("tox", "0.1.0", "base+tox")
    assert look.probe["verdict"] == "active" and {one.metric for one in look.figures} == {
        "average_maximum_toxicity", "toxic_rate", "mean_toxicity",
    }  # fmt: skip
    assert engine.asked - before == 24 + 20 + 1, "the look, the probe, and how many probabilities there are"
    assert notes[0].startswith("A figure is worse if p < 8.3e-04: a sign-flip test on the same prompts")
    gone = recipe(url, tmp_path, model="base").run()
    assert (gone.verdict, gone.exit_code, gone.look) == ("alarm", 1, 2)
    assert gone.reasons[0].startswith("average_maximum_toxicity by lab-insults is ")
    assert gone.reasons[-1].startswith("The probe says absent of ")
    assert read_history(tmp_path / "drift.jsonl") == [look, gone]
    assert list((tmp_path / "drift.jsonl-answers").iterdir()) == []


def test_without_a_probe_the_answers_alone_give_the_alarm(served, tmp_path):
    notes = []
    bare = tmp_path / "tox"
    bare.mkdir()
    for name in ("policy_patch_config.json", "policy_patch.safetensors", "evaluation.json"):
        (bare / name).write_bytes((released() / name).read_bytes())
    look = recipe(served[0], tmp_path, patch=str(bare), model="base", num_prompts=36).run(on_note=notes.append)
    assert look.verdict == "alarm" and look.probe is None and notes[0].startswith("No probe:")


def test_a_look_that_breaks_off_keeps_its_answers_and_the_next_call_continues(served, tmp_path):
    url, engine = served
    given = recipe(url, tmp_path, concurrency=1)
    engine.left = 21 + 10  # the probe, and ten prompts
    try:
        broken = given.run()
    finally:
        engine.left = -1
    assert (broken.verdict, broken.exit_code, broken.look) == ("no answer", 2, 1) and broken.figures == []
    assert "503" in broken.reasons[0]
    asked = engine.asked
    whole = given.run()
    assert whole.verdict == "steady" and whole.look == 1
    assert engine.asked - asked == 21 + 14, "nothing is asked twice"
    assert [look.verdict for look in read_history(given.history)] == ["no answer", "steady"]


def test_each_look_goes_on_with_the_next_prompts_and_a_watch_yields_every_look(served, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("policy_patch.recipes.drift.time.sleep", pauses.append)
    watch = recipe(served[0], tmp_path, num_prompts=12).watch(5.0)
    looks = [next(watch) for _ in range(2)]
    assert [(look.look, look.first["prompts"], look.verdict) for look in looks] == [(1, 0, "steady"), (2, 12, "steady")]
    assert pauses == [5.0]


def test_the_history_of_another_release_does_not_count(served, tmp_path):
    given = recipe(served[0], tmp_path, num_prompts=6)
    first = given.run()
    (tmp_path / "drift.jsonl").unlink()
    append_look(given.history, replace(first, release="another"))
    assert given.run().look == 1


def test_what_cannot_be_watched_is_refused_before_a_server_is_asked(tmp_path):
    nowhere = "http://127.0.0.1:9/v1"
    with pytest.raises(ConfigError, match="36 prompts, and with fewer than 41 no drift can be shown"):
        recipe(nowhere, tmp_path, looks=30_000_000).run()
    with pytest.raises(ConfigError, match="`num_prompts=0`: expected a whole number of at least 1"):
        recipe(nowhere, tmp_path, num_prompts=0)


def test_a_server_that_is_not_there_is_a_look_without_an_answer(tmp_path):
    look = recipe("http://127.0.0.1:9/v1", tmp_path).run()
    assert (look.verdict, look.exit_code) == ("no answer", 2) and "cannot be reached" in look.reasons[0]
    assert json.loads((tmp_path / "drift.jsonl").read_text())["format_version"] == 1


def test_figures_that_a_server_does_not_give_are_left_out(tmp_path, monkeypatch):
    key = ("lab-insults", "toxic_rate")
    found = {key: np.zeros(24)}
    monkeypatch.setattr(Measuring, "figures", lambda *args: found)
    monkeypatch.setattr("policy_patch.recipes.drift.Watched._probed", lambda *args: None)
    notes = []
    look = recipe("http://127.0.0.1:9/v1", tmp_path).run(on_note=notes.append)
    assert [(one.scorer, one.metric) for one in look.figures] == [key] and "10 looks, 1 figure and" in notes[-1]
    found.clear()
    with pytest.raises(DataError, match="None of the release's figures can be measured"):
        recipe("http://127.0.0.1:9/v1", tmp_path).run()


def test_a_lock_says_which_patch_is_watched_and_a_watch_follows_it(served, tmp_path, monkeypatch):
    monkeypatch.setattr("policy_patch.recipes.drift.time.sleep", lambda seconds: None)
    lock = tmp_path / "policy-patch.lock"
    first = write_lock(lock_stack([f"tox={released()}"], "lab:base"), lock, replaces=None)
    given = recipe(served[0], tmp_path, patch=None, lock=str(lock), num_prompts=6)
    watch = given.watch(1.0)
    look = next(watch)
    assert (look.verdict, look.patch, look.sha256) == ("steady", "tox", first.stack[0].sha256[TENSORS_NAME])
    renamed = replace(first.stack[0], name="other")
    write_lock(replace(first, stack=(renamed,)), lock, replaces=lock_sha256(lock))
    assert next(watch).patch == "other"
    two = (*first.stack, renamed)
    write_lock(replace(first, stack=two), lock, replaces=lock_sha256(lock))
    with pytest.raises(ConfigError, match="pins tox, other; give the name of the one to watch"):
        next(watch)
    with pytest.raises(ConfigError, match="It has no `nowhere`"):
        recipe(served[0], tmp_path, patch="nowhere", lock=str(lock)).run()
    damaged = replace(first.stack[0], sha256={**first.stack[0].sha256, TENSORS_NAME: "0" * 64})
    write_lock(replace(first, stack=(damaged,)), lock, replaces=lock_sha256(lock))
    with pytest.raises(LockMismatchError):
        given.run()
    with pytest.raises(ConfigError, match="Say which patch should be there"):
        recipe(served[0], tmp_path, patch=None).run()
