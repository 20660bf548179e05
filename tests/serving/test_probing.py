"""A probe of a running server: what it says about patches that are on, off, of another version or on some replicas."""

import socket

import pytest

from policy_patch.answers.probe_file import read_probe
from policy_patch.errors import ConfigError, EndpointError, PatchNotFoundError, ServingError
from policy_patch.serving import probe, watch
from policy_patch.serving.probing import ProbeReport
from tests.serving.fake_server import FORMS, FakeServer, serving


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("stack", "verdict", "code"), [(("tox",), "active", 0), ("__base__", "absent", 1), (("bias",), "another", 1)]
)
def test_on_off_and_another_patch_are_told_in_the_forms_of_all_engines(server, probes, form, stack, verdict, code):
    server.stacks, server.form = [stack], form
    report = probe(server.url, probes["tox"], chat=form == "chat")
    assert (report.verdict, report.exit_code, report.is_active) == (verdict, code, code == 0), report
    (found,) = report.addresses.values()
    assert sum(found.answers.values()) == 20 and (found.distance is None) == (form == "greedy")
    if verdict == "active" and form != "greedy":
        assert found.distance < 1e-4 and "tox 1.0.0" in found.reason


def test_another_version_is_told_with_its_probe_and_without(server, probes):
    server.stacks = [("tox2",)]
    known = probe(server.url, probes["tox"], others=[probes["tox2"]])
    assert known.verdict == "another" and "tox2 1.1.0" in next(iter(known.addresses.values())).reason
    assert probe(server.url, probes["tox"]).verdict == "another"
    assert probe(server.url, probes["tox2"], others=[probes["tox"]]).verdict == "active"


def test_a_stale_replica_behind_one_address_is_told(server, probes):
    server.stacks = [("tox",), ("tox",), "__base__"]
    report = probe(server.url, probes["tox"])
    (found,) = report.addresses.values()
    assert (report.verdict, report.exit_code) == ("mixed", 1)
    assert found.answers["tox 1.0.0"] in (13, 14) and "stale" in found.reason
    server.stacks = [("tox",)] * 3
    assert probe(server.url, probes["tox"]).is_active


def test_a_replica_that_is_met_seldom_needs_more_rounds(server, probes):
    server.stacks = [("tox",)] * 40 + [("tox2",)]
    assert probe(server.url, probes["tox"], rounds=3, others=[probes["tox2"]]).verdict == "mixed"
    assert len(server.requests) == 61  # one more finds out how many log-probabilities there are


def test_each_replica_is_judged_by_itself(server, probes, patched, tokenizer):
    with serving(FakeServer(patched, tokenizer, ["__base__"])) as other:
        report = probe(server.url, probes["tox"], replicas=[other.url])
        assert [found.verdict for found in report.addresses.values()] == ["active", "absent"]
        assert (report.verdict, report.exit_code) == ("absent", 1)
    report = probe(server.url, probes["tox"], replicas=[other.url])
    assert [found.verdict for found in report.addresses.values()] == ["active", "unreachable"]
    assert report.exit_code == 2
    with pytest.raises(EndpointError, match="cannot be reached"):
        probe(other.url, probes["tox"])


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_quantised_engine_is_told_if_its_bits_are_said(server, probes, bits):
    server.bits = bits
    assert probe(server.url, probes["tox"], bits=bits).verdict == "active"
    server.stacks = ["__base__"]
    assert probe(server.url, probes["tox"], bits=bits).verdict == "absent"
    if bits == 4:
        server.stacks = [("tox",)]
        report = probe(server.url, probes["tox"])
        assert report.verdict != "active", "4 bits are further off than 16 explain"
        assert "say to how many bits" in next(iter(report.addresses.values())).reason


def test_raw_completions_of_llama_cpp_are_the_base_and_its_chat_is_not(server, probes):
    server.form, server.raw_is_base = "llama.cpp", True
    report = probe(server.url, probes["tox"])
    assert report.verdict == "absent" and "chats only" in next(iter(report.addresses.values())).reason
    assert probe(server.url, probes["tox"], chat=True).is_active


def test_a_chat_template_is_named_as_a_cause_where_chat_was_asked(server, probes):
    server.stacks = [("bias",)]
    reasons = [
        next(iter(probe(server.url, probes["tox"], chat=chat).addresses.values())).reason for chat in (True, False)
    ]
    assert all("neither tox 1.0.0" in reason for reason in reasons)
    assert ["chat template other than the recorded one" in reason for reason in reasons] == [True, False]


def test_a_request_takes_more_fields(server, probes):
    off = probe(server.url, probes["tox"], extra_body={"chat_template_kwargs": {"patch": "off"}})
    assert off.verdict == "absent" and probe(server.url, probes["tox"]).verdict == "active"


def test_one_of_several_stacks_is_expected_and_the_others_are_named(server, probes):
    server.stacks = [("tox", "bias")]
    assert probe(server.url, probes["several"], system="both").is_active
    report = probe(server.url, probes["several"], system="bias")
    assert report.verdict == "another" and "tox 1.0.0 + bias 0.3.0" in next(iter(report.addresses.values())).reason
    with pytest.raises(ConfigError, match=r"no stack `all`\. It has: tox, bias, both"):
        probe(server.url, probes["several"], system="all")


def test_a_probe_that_cannot_tell_asks_nothing(server, patched, tokenizer, tmp_path, probes):
    stored = read_probe(probes["tox"])
    for rows in stored.rows.values():
        for row in rows:
            row.systems["tox"] = row.systems["base"]
    report = probe(server.url, stored)
    assert (report.verdict, report.exit_code) == ("cannot tell", 2) and not server.requests


def test_the_model_is_named_if_the_server_has_several(server, probes):
    server.names = ["tiny", "tiny+tox"]
    with pytest.raises(ServingError, match=r"lists 2 models \(tiny, tiny\+tox\); say which with `model`"):
        probe(server.url, probes["tox"])
    assert probe(server.url, probes["tox"], model="tiny+tox").is_active
    assert {body["model"] for _, body in server.requests} == {"tiny+tox"}


@pytest.mark.parametrize(("options", "error"), [({"bits": 5}, "bits=5"), ({"rounds": 0}, "rounds=0")])
def test_impossible_values_are_refused(server, probes, options, error):
    with pytest.raises(ConfigError, match=error):
        probe(server.url, probes["tox"], **options)


def test_a_folder_without_a_probe_is_told(server, tmp_path):
    with pytest.raises(PatchNotFoundError, match=r"policy_patch_probe\.json"):
        probe(server.url, tmp_path)


def test_a_server_that_answers_nonsense_is_an_error(probes):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(EndpointError, match="did not answer in time"):
            probe(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", probes["tox"], timeout=0.2)


def test_a_watch_goes_on_when_the_server_dies(server, probes, patched, tokenizer, monkeypatch):
    paused = []
    monkeypatch.setattr("policy_patch.serving.probing.time.sleep", paused.append)
    with serving(FakeServer(patched, tokenizer, [("tox",)])) as other:
        reports = watch(other.url, probes["tox"], seconds=7)
        assert next(reports).verdict == "active"
        other.stacks = ["__base__"]
        assert next(reports).verdict == "absent"
    assert next(reports).verdict == "unreachable" and paused == [7, 7]


def test_a_report_is_as_bad_as_its_worst_address(server, probes):
    found = next(iter(probe(server.url, probes["tox"]).addresses.values()))
    from dataclasses import replace

    def report(*verdicts):
        return ProbeReport("tox", {str(n): replace(found, verdict=verdict) for n, verdict in enumerate(verdicts)})

    assert report("active", "active").exit_code == 0
    assert report("active", "cannot tell").exit_code == 2
    assert report("unreachable", "active", "absent").exit_code == 1
    assert report("active", "another").verdict == "another"
