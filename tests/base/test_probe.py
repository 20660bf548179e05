"""Tests of `base.probe`: predictions compared within a base's own noise; looking leaves no trace."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from policy_patch.base import probe as base_probe
from policy_patch.base.fingerprint import base_fingerprint, check_base
from policy_patch.base.probe import Probe, looking_once, probe_of
from policy_patch.errors import BaseMismatchError
from tests.tiny_models import tiny_model


def deep_model(depth: int, std: float, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = LlamaConfig(**shape, num_hidden_layers=depth, initializer_range=std, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("depth", [32, 80])
def test_a_layer_that_is_skipped_is_seen_in_bf16(depth, std):
    base = deep_model(depth, std).bfloat16()
    fingerprint = base_fingerprint(base)
    for at in (0, depth // 2, depth - 1):
        edited = copy.deepcopy(base)
        edited.model.layers[at].forward = lambda hidden_states, *args, **kwargs: hidden_states
        with pytest.raises(BaseMismatchError, match="it predicts other tokens"):
            check_base(edited, fingerprint)


@pytest.mark.parametrize("std", [0.02, 0.1, 0.3])
def test_noise_of_half_precision_is_no_difference(std):
    base = deep_model(80, std)
    probes = {
        dtype: probe_of(copy.deepcopy(base).to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    assert [probe.precision for probe in probes.values()] == ["float32", "bfloat16", "float16"]
    assert probes[torch.float32].noise < 1e-3 < probes[torch.bfloat16].noise
    for one in probes.values():
        for other in probes.values():
            assert one.differs_from(other, same_weights=True) is None


def test_a_base_is_run_once_for_a_stack_and_anew_at_other_times(monkeypatch):
    base, runs, run = tiny_model(), [], base_probe._run
    monkeypatch.setattr(base_probe, "_run", lambda model: runs.append(model) or run(model))
    with looking_once():
        assert probe_of(base) is probe_of(base) and len(runs) == 1
    probe_of(base)
    assert len(runs) == 2


def test_a_base_is_not_kept_alive():
    def looked_at() -> weakref.ref:
        base = tiny_model()
        base.note = lambda: base  # as `model.compile()` leaves a function that knows the model
        check_base(base, base_fingerprint(base))
        return weakref.ref(base)

    gone = looked_at()
    gc.collect()
    assert gone() is None


def test_threads_that_look_at_one_base_do_not_switch_its_dropout_on():
    base = tiny_model("gpt2").train()
    fingerprint, faults = base_fingerprint(base), []

    def look() -> None:
        try:
            for _ in range(8):
                check_base(base, fingerprint)
        except BaseMismatchError as error:
            faults.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and base.training


def test_what_dynamic_rotary_modules_remember_is_put_back():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    base = deep_model(2, 0.1, rope_parameters=rope, max_position_embeddings=32)
    ids = torch.arange(60).unsqueeze(0)
    with torch.no_grad():
        base(ids)
        before = base.model.rotary_emb.inv_freq.clone(), base.model.rotary_emb.max_seq_len_cached
        probe_of(base)
    assert torch.equal(base.model.rotary_emb.inv_freq, before[0])
    assert base.model.rotary_emb.max_seq_len_cached == before[1]


def test_a_compiled_base_is_looked_at_without_compiling():
    base = tiny_model()
    fingerprint, compiled = base_fingerprint(base), []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    base.model.compile(backend=backend)
    check_base(base, fingerprint)
    assert not compiled


def test_under_autocast_the_precision_is_that_of_autocast():
    base = tiny_model()
    fingerprint = base_fingerprint(base)
    with torch.autocast("cpu", torch.bfloat16):
        assert probe_of(base).precision == "bfloat16"
        check_base(base, fingerprint)


def test_other_settings_of_fp32_products_are_seen_in_a_product(monkeypatch):
    base = tiny_model()
    assert probe_of(base).precision == "float32"
    monkeypatch.setattr(base_probe, "_is_exact_in_fp32", lambda device: False)
    assert probe_of(base).precision == "bfloat16"
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # then torch refuses to say it in its older way
        assert isinstance(probe_of(base), Probe)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_a_base_that_cannot_be_run_says_why():
    base = tiny_model()
    base.model.layers[0].forward = None
    assert probe_of(base).startswith("TypeError")
    with torch.no_grad():
        other = tiny_model()
        other.lm_head.weight.fill_(float("nan"))
    assert probe_of(other) == "it gives numbers that are not finite"
