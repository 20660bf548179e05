"""The probe of llama.cpp: which patch chat has, that raw completions have none, and the same of a quantised file."""

import pytest

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
