"""A tiny patched model with two patches and a later version of the first, their probes, and a server that runs it."""

import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.answers.served_probe import record_probe
from tests.serving.fake_server import FakeServer, serving
from tests.tiny_models import tiny_model

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


def patched_model(tokenizer, seed=0):
    """Return a tiny model with the patches `tox` 1.0.0, `tox2` (`tox` 1.1.0, moved a little) and `bias`."""

    def config(seed, version, risk):
        return PolicyPatchConfig(num_virtual_tokens=8, init="random", init_seed=seed, patch_version=version, risk=risk)

    model = get_policy_patch_model(tiny_model("llama", seed), config(seed, "1.0.0", "toxicity"), patch_name="tox")
    model.add_patch("tox2", config(seed, "1.1.0", "toxicity"))
    model.add_patch("bias", config(seed + 1000, "0.3.0", "gender_bias"))
    with torch.no_grad():
        vectors = model.patches["tox2"]
        noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
        vectors.add_(0.3 * vectors.std() * noise)
    return model.eval()


@pytest.fixture(scope="module")
def patched(tokenizer):
    return patched_model(tokenizer)


@pytest.fixture(scope="module")
def probes(patched, tokenizer, tmp_path_factory):
    """Folders of three probes, by name: `tox`, `tox2` (its later version) and `several` (three stacks)."""
    stacks = {
        "tox": {"tox": ["tox"]},
        "tox2": {"tox": ["tox2"]},
        "several": {"tox": ["tox"], "bias": ["bias"], "both": ["tox", "bias"]},
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in stacks}
    for name, folder in folders.items():
        record_probe(patched, tokenizer, folder, stacks=stacks[name], chat_template=TEMPLATE)
    return folders


@pytest.fixture
def server(patched, tokenizer):
    with serving(FakeServer(patched, tokenizer, [("tox",)], template=TEMPLATE)) as server:
        yield server
