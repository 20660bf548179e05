"""Random models, each with its patches: what their own answers say, under rounding and from mixed replicas."""

import contextlib

import pytest
import torch

from policy_patch.answers.probe_likelihood import Seen, seen_of
from policy_patch.answers.probe_noise import Rounded
from policy_patch.answers.served_probe import next_tokens_of, record_probe
from policy_patch.errors import ConfigError
from policy_patch.serving.verdict import candidates_of, verdict_on
from tests.serving.conftest import patched_model

SEEDS = 3  # benchmarks/served_probe.py does the same with 20


@pytest.fixture(scope="module")
def cases(tokenizer, tmp_path_factory):
    """For each seed: the candidates without and with the other version, and what gives a server's answers."""
    folder, found = tmp_path_factory.mktemp("probe"), []
    for seed in range(SEEDS):
        model = patched_model(tokenizer, seed)
        one, two = (record_probe(model, tokenizer, folder, stacks={name: [name]}) for name in ("tox", "tox2"))

        def answers(names, bits=None, model=model, probe=one):
            rounding = Rounded(bits) if bits else contextlib.nullcontext()
            with torch.no_grad(), rounding:
                rows = enumerate(probe.rows["completions"])
                return [
                    (number, seen_of(next_tokens_of(model, tokenizer, tokenizer(row.prompt)["input_ids"], names)))
                    for number, row in rows
                ]

        found.append((candidates_of(one), candidates_of(one, [two]), answers))
    return found


def verdicts(cases, names, *, bits=None, known=True, change=lambda answers: answers):
    found = [
        verdict_on(both if known else alone, change(answers(names, bits)), bits=bits or 16).verdict
        for alone, both, answers in cases
    ]
    return {verdict: found.count(verdict) for verdict in found}


@pytest.mark.parametrize(
    ("names", "verdict"), [(("tox",), "active"), ("__base__", "absent"), (("tox2",), "another"), (("bias",), "another")]
)
def test_on_off_and_other_patches_are_told_every_time(cases, names, verdict):
    assert verdicts(cases, names) == {verdict: SEEDS}


def test_a_version_without_a_probe_is_never_taken_for_absent_and_mostly_another(cases):
    found = verdicts(cases, ("tox2",), known=False)
    assert set(found) <= {"another", "active", "mixed"} and found["another"] >= SEEDS - 1


@pytest.mark.parametrize(("bits", "names"), [(16, ("tox",)), (8, ("tox",)), (8, "__base__"), (8, ("tox2",))])
def test_a_quantised_engine_is_told_every_time(cases, bits, names):
    expected = {("tox",): "active", "__base__": "absent", ("tox2",): "another"}[names]
    assert verdicts(cases, names, bits=bits) == {expected: SEEDS}


def test_a_single_stale_answer_of_twenty_is_told(cases):
    for number in range(SEEDS):
        _, both, answers = cases[number]
        stale, good = answers("__base__"), answers(("tox",))
        good[3] = stale[3]
        assert verdict_on(both, good).verdict == "mixed"


def test_greedy_tokens_alone_tell_on_from_off(cases):
    def greedy(answers):
        return [(number, Seen(greedy=seen.tokens[0][0])) for number, seen in answers]

    assert verdicts(cases, "__base__", change=greedy) == {"absent": SEEDS}
    found = verdicts(cases, ("tox",), known=False, change=greedy)
    assert set(found) <= {"active", "cannot tell"} and found["active"] >= SEEDS - 1


def test_too_few_answers_do_not_decide(cases):
    alone, _, answers = cases[0]
    one = [(number, Seen(greedy=seen.tokens[0][0])) for number, seen in answers(("tox",))[:1]]
    assert verdict_on(alone, one).verdict == "cannot tell"


def test_probes_of_different_prompts_are_not_compared(cases, tokenizer, tmp_path):
    from dataclasses import replace

    model = patched_model(tokenizer)
    one = record_probe(model, tokenizer, tmp_path)
    rows = {"completions": [replace(row, prompt="?") for row in one.rows["completions"]]}
    with pytest.raises(ConfigError, match="ask different prompts"):
        candidates_of(one, [replace(one, rows=rows)])
    with pytest.raises(ConfigError, match="no predictions for chat"):
        candidates_of(one, kind="chat")
