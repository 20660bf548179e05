"""Tests of how a gateway is opened: each engine is checked first, and baked engines are chosen by name."""

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from policy_patch.answers.served_probe import record_probe
from policy_patch.errors import ConfigError, EndpointError, PatchNameError, ServingError
from policy_patch.export.vllm_chat_template import wrapped
from policy_patch.patch_folder import read_patch_folder
from policy_patch.serving.gateway import gateway_app
from policy_patch.serving.gateway_setup import GatewaySettings, open_gateway
from tests.export.test_vllm_chat_template import WITH_BOS
from tests.listening import listening
from tests.serving.fake_vllm import FakeVllm, serving
from tests.tiny_models import tiny_model


def settings(lab, url, **values):
    return GatewaySettings(upstreams=[url], patches=lab.specs[:1], base=str(lab.base), **values)


def test_an_engine_that_does_something_else_opens_no_gateway(lab):
    wrong = FakeVllm(tiny_model(), lab.tokenizer, WITH_BOS)
    with serving(wrong.app()) as url:
        with pytest.raises(ServingError, match="In chat the engine does not put `tox`"):
            open_gateway(settings(lab, url))
        with pytest.raises(ServingError, match="In chat the engine does not put `tox`"):
            open_gateway(GatewaySettings(upstreams=[lab.url, url], patches=lab.specs[:1], base=str(lab.base)))
        open_gateway(settings(lab, url, chat=False))
        with listening("policy_patch.serving.gateway_setup", 20) as lines:
            open_gateway(settings(lab, url, check=False))
    assert any("Not checked (--no_check)" in line for line in lines)


def test_an_engine_that_fails_the_check_is_no_wrong_setting(lab):
    def broken(request):
        return JSONResponse({"error": "out of memory"}, status_code=500)

    app = Starlette(routes=[Route("/v1/{path:path}", broken, methods=["GET", "POST"])])
    with serving(app) as url, pytest.raises(ServingError, match="answers 500 to a request of the check"):
        open_gateway(settings(lab, url, model="base"))


def test_a_new_patch_is_checked_too(lab):
    _, load = open_gateway(settings(lab, lab.url))
    assert load(lab.specs[1]).name == "bias"
    template, lab.engine.template = lab.engine.template, WITH_BOS
    try:
        with pytest.raises(ServingError, match="In chat the engine does not put `bias`"):
            load(lab.specs[1])
    finally:
        lab.engine.template = template


def test_what_is_missing_is_named(lab):
    for values, message in (
        ({"kind": "bakd"}, "expected one of prompt-embeds, baked"),
        ({"dtype": "int8"}, "expected one of float32"),
        ({"name": "a+b"}, r"has `\+` or `@` in it"),
    ):
        with pytest.raises((ConfigError, PatchNameError), match=message):
            open_gateway(settings(lab, lab.url, **values))
    with pytest.raises(ConfigError, match="at least one engine"):
        open_gateway(GatewaySettings(upstreams=[], patches=[]))
    with pytest.raises(EndpointError, match="does not answer: ConnectError"):
        open_gateway(settings(lab, "http://127.0.0.1:9/v1"))


@pytest.fixture
def baked(lab, tmp_path):
    """An engine whose checkpoint has the patch `tox` in it, and the probe that was written beside the checkpoint."""
    engine = FakeVllm(tiny_model(), lab.tokenizer, wrapped(WITH_BOS, "<s>"))
    engine.baked = {"tox": read_patch_folder(lab.folder / "tox")[1]}
    record_probe(lab.oracle, lab.tokenizer, tmp_path, stacks={"tox": ["tox"]}, chat_template=WITH_BOS)
    return engine, str(tmp_path)


def test_a_baked_engine_without_the_patch_or_with_another_one_is_refused(lab, baked):
    engine, probe = baked
    for vectors in (None, read_patch_folder(lab.folder / "bias")[1]):
        engine.baked = {} if vectors is None else {"tox": vectors}
        with serving(engine.app()) as url:
            with pytest.raises(ServingError, match=r"`base\+tox@v1\.0\.0` is (absent|another)"):
                open_gateway(settings(lab, url, kind="baked", probe=probe))
            with pytest.raises(ConfigError, match="cannot be asked which patches and versions"):
                open_gateway(settings(lab, url, kind="baked"))


def test_a_baked_engine_is_chosen_by_name_and_completes_no_raw_text(lab, baked, expected):
    engine, probe = baked
    messages = [{"role": "user", "content": "Who are you?"}]
    with serving(engine.app()) as url:
        opened, load = open_gateway(settings(lab, url, kind="baked", allow_base=True, probe=probe))
        with pytest.raises(ServingError, match="are in its checkpoint"):
            load(lab.specs[1])
        with serving(gateway_app(opened)) as gateway:

            def ask(path, model, **body):
                body = {"model": model, "max_tokens": 6, "temperature": 0, **body}
                return httpx2.post(f"{gateway}/{path}", json=body, trust_env=False)

            for model, names in (("base+tox", ["tox"]), ("base", [])):
                answer = ask("chat/completions", model, messages=messages)
                assert answer.json()["choices"][0]["message"]["content"] == expected(names, messages=messages)
            refused = ask("completions", "base+tox", prompt="Hello")
            assert refused.status_code == 400 and "would complete without them" in refused.text
            kwargs = ask("chat/completions", "base+tox", messages=messages, chat_template_kwargs={"patch": "none"})
            assert kwargs.status_code == 400


def test_an_answer_that_a_dying_engine_cut_off_is_asked_for_again_elsewhere(lab, expected):
    dying = FakeVllm(tiny_model(), lab.tokenizer, wrapped(WITH_BOS, "<s>"))
    body = {"model": "base+tox", "prompt": "Hello", "max_tokens": 6, "temperature": 0}
    with serving(dying.app()) as url:
        both = GatewaySettings(upstreams=[url, lab.url], patches=lab.specs[:1], base=str(lab.base))
        opened = [open_gateway(each)[0] for each in (both, settings(lab, url))]
        dying.finish_reason = "abort"
        with serving(gateway_app(opened[0])) as two, serving(gateway_app(opened[1])) as one:
            answers = [httpx2.post(f"{two}/completions", json=body, trust_env=False) for _ in range(4)]
            assert [each.json()["choices"][0]["text"] for each in answers] == [expected(["tox"], "Hello")] * 4
            alone = httpx2.post(f"{one}/completions", json=body, trust_env=False)
            assert alone.status_code == 502 and "cut its answer off" in alone.text
