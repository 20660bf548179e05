"""Tests of the operator's application: swap and rollback while requests run, from this machine alone."""

import threading

import httpx2
import pytest
import torch

from policy_patch.patch_folder import read_patch_folder, write_patch_folder
from policy_patch.serving.gateway import gateway_app
from policy_patch.serving.gateway_admin import admin_app
from policy_patch.serving.gateway_setup import GatewaySettings, open_gateway
from tests.serving.fake_vllm import serving


@pytest.fixture
def running(lab):
    settings = GatewaySettings(upstreams=[lab.url], patches=lab.specs[:1], base=str(lab.base))
    opened, load = open_gateway(settings)
    with serving(gateway_app(opened)) as url, serving(admin_app(opened.patches, load)) as admin:
        yield url, admin.removesuffix("/v1")


def asked(url, model="base+tox"):
    body = {"model": model, "prompt": "Hello", "max_tokens": 6, "temperature": 0}
    answer = httpx2.post(f"{url}/completions", json=body, trust_env=False)
    return answer.headers["x-policy-patch"].split()[0], answer.json()["choices"][0]["text"]


@pytest.fixture
def newer(lab, tmp_path):
    config, vectors = read_patch_folder(lab.folder / "tox")
    config.patch_version = "1.5.0"
    write_patch_folder(tmp_path / "tox", config, vectors + torch.randn_like(vectors))
    return f"tox={tmp_path / 'tox'}"


def test_a_version_is_swapped_in_and_back_without_a_lost_request(running, newer):
    url, admin = running
    before = asked(url)
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(asked(url))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        put = httpx2.post(f"{admin}/patches", json={"patch": newer}, timeout=60, trust_env=False)
        assert (put.status_code, put.json()["before"], put.json()["patch"]["version"]) == (200, "1.0.0", "1.5.0")
        after = asked(url)
        assert asked(url, "base+tox@v1.0.0") == before
        back = httpx2.post(f"{admin}/patches/tox/rollback", trust_env=False)
        assert back.json() == {"name": "tox", "version": "1.0.0"}
    finally:
        stop.set()
        thread.join()
    assert asked(url) == before and after[0] == "tox@v1.5.0" and after[1] != before[1]
    assert set(answers) <= {before, after}  # never a header of one with the text of the other
    removed = httpx2.delete(f"{admin}/patches/tox/v1.5.0", trust_env=False)
    assert removed.json() == {"name": "tox", "removed": "1.5.0"}
    listed = httpx2.get(f"{admin}/patches", trust_env=False).json()["patches"]
    assert [one["id"] for one in listed] == ["base+tox", "base+tox@v1.0.0"]


def test_what_is_wrong_changes_nothing(running, lab):
    url, admin = running
    before = asked(url)
    wrong = [
        ({"patch": f"tox={lab.folder / 'bias'}/nothing"}, "does not exist"),
        ({"patch": 3}, "Expected a body"),
        ({"patch": "x" * 70_000}, "more than 65,536 bytes"),
    ]
    for body, message in wrong:
        answer = httpx2.post(f"{admin}/patches", json=body, trust_env=False)
        assert answer.status_code == 400 and message in answer.json()["error"]
    assert httpx2.post(f"{admin}/patches/tox/rollback", trust_env=False).status_code == 400
    assert asked(url) == before


def test_a_page_in_a_browser_cannot_change_anything(running):
    _, admin = running
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        answer = httpx2.post(f"{admin}/patches", json={"patch": "x"}, headers=headers, trust_env=False)
        assert answer.status_code == 403
