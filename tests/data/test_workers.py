"""Processes that share a run; what two of them do together is held in `test_shards.py`."""

from policy_patch.data.workers import Workers


def test_a_process_that_was_not_launched_with_others_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Workers.of_this_launch() == Workers(0, 1)


def test_waiting_ends_when_something_is_found(monkeypatch):
    found = iter([None, None, "shard"])
    monkeypatch.setattr("policy_patch.data.workers._PAUSE_SECONDS", 0)
    assert Workers.wait_for(lambda: next(found)) == "shard"


def test_alone_the_main_process_is_first_and_last():
    done = []
    Workers().main_first(lambda: done.append(1))
    assert done == [1]
