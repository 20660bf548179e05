"""Tests of the probe at a gateway's start: a right engine passes, one with other weights or patches does not."""

import pytest
import torch

from policy_patch.answers.served_probe import record_probe
from policy_patch.errors import ServingError
from policy_patch.export.vllm_chat_template import wrapped
from policy_patch.serving.gateway_setup import GatewaySettings, open_gateway
from tests.export.test_vllm_chat_template import WITH_BOS
from tests.listening import listening
from tests.serving.fake_vllm import FakeVllm, serving
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def recorded(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    record_probe(lab.oracle, lab.tokenizer, folder, stacks={"tox": ["tox"], "bias": ["bias"]}, chat_template=WITH_BOS)
    return str(folder)


def settings(lab, url, recorded, patches=2):
    return GatewaySettings(upstreams=[url], patches=lab.specs[:patches], base=str(lab.base), probe=recorded)


def test_a_right_engine_is_probed_for_each_patch(lab, recorded):
    with listening("policy_patch.serving", 20) as lines:
        open_gateway(settings(lab, lab.url, recorded))
    probed = [line.split("/v1 ")[1] for line in lines if "Probed" in line]
    assert probed == ["base+tox@v1.0.0: active", "base+bias@v1.1.0: active"]
    assert not any('"path"' in line for line in lines)  # what the probe asks is no client's request


def test_an_engine_with_other_layers_is_found_though_it_embeds_the_same(lab, recorded):
    model = tiny_model()
    with torch.no_grad():  # the check of the engine with itself cannot see this
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(-1)
    with (
        serving(FakeVllm(model, lab.tokenizer, wrapped(WITH_BOS, "<s>")).app()) as url,
        pytest.raises(ServingError, match=r"At http://127.0.0.1:\d+/v1 `base\+tox@v1\.0\.0` is "),
    ):
        open_gateway(settings(lab, url, recorded, 1))


def test_a_patch_that_the_probe_does_not_know_is_refused(lab, recorded):
    with pytest.raises(ServingError, match=r"holds nothing of `base\+harm@v1\.2\.0`"):
        open_gateway(settings(lab, lab.url, recorded, 3))
