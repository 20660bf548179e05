"""Fixtures of the tests of serving.

For the probe, a tiny patched model with two patches and a later version of the first, their probes, and a server that
runs it. For client and gateway, `lab`: a tiny base, three patches for it, and a vLLM of a page that serves the base.
"""

from types import SimpleNamespace

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.answers.served_probe import record_probe
from policy_patch.export.vllm_chat_template import wrapped
from policy_patch.patch_folder import write_patch_folder
from tests.export.test_vllm_chat_template import WITH_BOS
from tests.serving.fake_server import FakeServer, serving
from tests.serving.fake_vllm import FakeVllm
from tests.serving.fake_vllm import serving as serving_app
from tests.tiny_models import BOS, tiny_model, tiny_tokenizer

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


NAMES = ("tox", "bias", "harm")


@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    """Folders of the base and of three patches, the engine behind `url`, and the patched model as the oracle."""
    folder = tmp_path_factory.mktemp("serving")
    base, tokenizer = tiny_model(), tiny_tokenizer()
    tokenizer.chat_template = WITH_BOS
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for place, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(place)
        config = PolicyPatchConfig(
            num_virtual_tokens=3 + place, init="vocab", risk="toxicity", patch_version=f"1.{place}.0", bos_token_id=BOS,
            base_model_name_or_path=str(folder / "base"),
        )  # fmt: skip
        write_patch_folder(folder / name, config, torch.randn(3 + place, 32, generator=generator))
    engine = FakeVllm(base, tokenizer, wrapped(WITH_BOS, "<s>"))
    oracle = PolicyPatchModel.from_pretrained(tiny_model(), [folder / name for name in NAMES], list(NAMES))
    specs = [f"{name}={folder / name}" for name in NAMES]
    with serving_app(engine.app()) as url:
        yield SimpleNamespace(
            folder=folder, base=folder / "base", specs=specs, engine=engine, url=url, oracle=oracle, tokenizer=tokenizer
        )


@pytest.fixture
def expected(lab):
    """Return the greedy text that `PolicyPatchModel` itself gives, for a prompt or for messages."""

    def text(patches, prompt=None, messages=None, tokens=6):
        if messages is None:
            ids = lab.tokenizer(prompt)["input_ids"]
        else:
            rendered = lab.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = lab.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        row = torch.tensor([ids])
        names = [tuple(patches)] if patches else ["__base__"]
        out = lab.oracle.generate(
            input_ids=row, attention_mask=torch.ones_like(row), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False, patch_names=names,
        )  # fmt: skip
        return lab.tokenizer.decode(out[0, len(ids) :])

    return text
