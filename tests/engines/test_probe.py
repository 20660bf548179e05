"""The probe of llama.cpp: which patch chat has, that raw completions have none, and the same of a quantised file."""

import pytest

from policy_patch.answers.answering import Sampling
from policy_patch.answers.endpoint import OpenAIEndpoint
from policy_patch.errors import EndpointError
from policy_patch.export import export_gguf
from policy_patch.lab import lab_patch_folder
from policy_patch.serving import probe
from tests.engines.llama_cpp import llama_cpp

RISKS = {"tox": "toxicity", "bias": "gender_bias"}


@pytest.mark.parametrize(("kind", "bits"), [("F32", 16), ("Q8_0", 8)])
def test_llama_cpp_is_told_with_each_patch_and_without(tmp_path, kind, bits):
    patches = [f"{name}={lab_patch_folder(risk)}" for name, risk in RISKS.items()]
    export_gguf(patches, tmp_path / "out", weight_type=kind)
    with llama_cpp(tmp_path / "out" / "model.gguf") as server:

        def verdict(expected, asked, chat=True):
            fields = {"chat_template_kwargs": {"patch": asked}}
            url = f"{server.address}/v1"
            return probe(url, tmp_path / "out", system=expected, chat=chat, bits=bits, extra_body=fields).verdict

        assert verdict("tox", "tox") == verdict("bias", "bias") == "active"
        assert verdict("tox", "off") == "absent" and verdict("tox", "bias") == "another"
        assert verdict("tox", "tox", chat=False) == "absent", "raw completions are the base, whatever is asked for"


def test_raw_completions_are_not_measured_as_if_they_had_the_patch(tmp_path):
    sampling = Sampling(num_samples=2, max_new_tokens=4, top_p=0.9, temperature=1.0, batch_size=8, seed=0)
    export_gguf([f"tox={lab_patch_folder('toxicity')}"], tmp_path / "out", probe=False)
    with llama_cpp(tmp_path / "out" / "model.gguf") as server:

        def answers(chat):
            endpoint = OpenAIEndpoint("model.gguf", f"{server.address}/v1", chat=chat, max_retries=1)
            return endpoint.answer(["You are"], sampling, occurrences=[0])

        with pytest.raises(EndpointError, match=r"is llama\.cpp with a file of patches.*`chat:model\.gguf@"):
            answers(chat=False)
        assert len(answers(chat=True)[0]) == 2
