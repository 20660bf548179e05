"""A tiny base, three patches for it, and an engine that serves the base, made once for the tests of serving."""

from types import SimpleNamespace

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.export.vllm_chat_template import wrapped
from policy_patch.patch_folder import write_patch_folder
from tests.export.test_vllm_chat_template import WITH_BOS
from tests.serving.fake_vllm import FakeVllm, serving
from tests.tiny_models import BOS, tiny_model, tiny_tokenizer

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
    with serving(engine.app()) as url:
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
