"""A vLLM engine answers prompts; the engine is a stand-in with the documented interface of `vllm.LLM`."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from policy_patch.answers.answering import Sampling, answering
from policy_patch.answers.sampling import Answer

SAMPLING = Sampling(num_samples=2, max_new_tokens=5, top_p=0.9, temperature=0.7, batch_size=8, seed=3)


class SamplingParams(SimpleNamespace):
    """vLLM's settings of one request."""


class LLM:
    """vLLM's engine: `generate(prompts, sampling_params, use_tqdm=...)` returns a `RequestOutput` for each prompt."""

    def __init__(self):
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(model="org/teacher", revision="v2"))
        self.asked = []

    def generate(self, prompts, sampling_params, *, use_tqdm=True):
        """Return two answers to each prompt, one cut short."""
        self.asked += zip(prompts, sampling_params, strict=True)
        outputs = [SimpleNamespace(text=" a", finish_reason="stop"), SimpleNamespace(text=" b", finish_reason="length")]
        return [SimpleNamespace(outputs=outputs) for _ in prompts]


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.SamplingParams = SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_an_engine_is_asked_once_for_all_prompts_each_with_a_seed_of_its_own():
    engine, told = LLM(), []
    model = answering(engine)
    answers = model.answer(["You", "He"], SAMPLING, occurrences=[0, 1], on_progress=lambda *done: told.append(done))
    assert answers == [[Answer(" a", True), Answer(" b", False)]] * 2
    assert [prompt for prompt, _ in engine.asked] == ["You", "He"]
    for _, settings in engine.asked:
        assert (settings.n, settings.max_tokens, settings.temperature, settings.top_p) == (2, 5, 0.7, 0.9)
    assert engine.asked[0][1].seed != engine.asked[1][1].seed
    assert told == [(4, 4)]
    assert model.name == "org/teacher@v2 on vLLM"
