"""Tests of the proof of an engine: each way in which a patch would not count is found."""

import json
import urllib.error
import urllib.request

import pytest
import torch

from policy_patch.base.served_base import read_served_base
from policy_patch.errors import ServingError
from policy_patch.export.vllm_chat_template import wrapped
from policy_patch.patch.prompt_embeds import Stack
from policy_patch.serving.engine_check import check_engine
from tests.export.test_vllm_chat_template import WITH_BOS
from tests.serving.fake_vllm import FakeVllm, serving
from tests.tiny_models import BOS, tiny_model


@pytest.fixture
def check(lab):
    """Return a function that checks a changed engine."""
    base = read_served_base(lab.base)
    stack = Stack(torch.randn(4, 32, generator=torch.Generator().manual_seed(5)), bos_token_id=BOS)

    def checked(engine, stacks=None, **options):
        with serving(engine.app()) as url:

            def post(path, body):
                request = urllib.request.Request(
                    url + path, json.dumps(body).encode(), {"content-type": "application/json"}
                )
                try:
                    return json.load(urllib.request.urlopen(request))
                except urllib.error.HTTPError as error:
                    raise ServingError(error.read().decode()) from error

            return check_engine(post, "base", base, stacks or {"tox": stack}, **options)

    return checked


def engine(lab, model=None, template=None):
    return FakeVllm(model or tiny_model(), lab.tokenizer, template or wrapped(WITH_BOS, "<s>"))


def test_a_right_engine_passes(lab, check):
    found = check(engine(lab))
    assert found["ids and embeddings"] < 1e-4 and found["tox in chat"] < 1e-4 and found["tox and no patch"] > 0.1


def test_an_engine_that_scales_embeddings_or_serves_another_base_is_found(lab, check):
    wrong = engine(lab)
    wrong.scale = 2.0
    with pytest.raises(ServingError, match="serves another base, or scales embeddings"):
        check(wrong)
    with pytest.raises(ServingError, match="serves another base, or scales embeddings"):
        check(engine(lab, tiny_model(seed=1)))


@pytest.mark.parametrize("template", [WITH_BOS, wrapped(WITH_BOS, None)])
def test_a_chat_template_that_puts_the_vectors_elsewhere_is_found(lab, check, template):
    with pytest.raises(ServingError, match="In chat the engine does not put `tox` where it was trained"):
        check(engine(lab, template=template))
    assert check(engine(lab, template=template), chat=False)


def test_a_patch_that_changes_nothing_is_found(lab, check):
    with pytest.raises(ServingError, match="answers with `tox` as without"):
        check(engine(lab), {"tox": Stack(torch.zeros(0, 32), bos_token_id=BOS)})


def test_an_engine_without_embeddings_or_without_log_probabilities_is_refused(lab, check):
    one, two = engine(lab), engine(lab)
    one.takes_embeds, two.gives_logprobs = False, False
    with pytest.raises(ServingError, match="enable-prompt-embeds"):
        check(one)
    with pytest.raises(ServingError, match="gives no log-probabilities"):
        check(two)
