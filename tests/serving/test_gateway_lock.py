"""Tests of a gateway that serves a lock: it follows the file, all at once or not at all, while requests run."""

import os
import signal
import threading
import time
from dataclasses import replace

import httpx2
import pytest
import torch

from policy_patch.errors import ConfigError, LockError, LockMismatchError, PatchNameError, ServingError
from policy_patch.hub.lock_file import Lock, LockedBase, LockedPatch
from policy_patch.hub.lock_history import lock_sha256, roll_back, write_lock
from policy_patch.hub.locked_patches import hashes_to_lock
from policy_patch.patch.folder import patch_files, write_patch_files
from policy_patch.patch_folder import read_patch_folder
from policy_patch.serving.gateway import gateway_app
from policy_patch.serving.gateway_admin import admin_app
from policy_patch.serving.gateway_setup import GatewaySettings, open_gateway, reload_lock, serve_gateway
from tests.serving.fake_vllm import serving


def versioned(lab, folder, version: str) -> LockedPatch:
    """Write a version of `tox` with vectors of its own, and return it as it is locked."""
    config, vectors = read_patch_folder(lab.folder / "tox")
    generator = torch.Generator().manual_seed(int(version[2]))
    config, files = patch_files(
        replace(config, patch_version=version), torch.randn(vectors.shape, generator=generator) * 3
    )
    write_patch_files(folder, files)
    return LockedPatch(name="tox", folder=str(folder), version=version, sha256=hashes_to_lock(files))


@pytest.fixture
def path(lab, tmp_path):
    """A lock with version 1.0.0 of `tox`, and with `bias`."""
    config, vectors = read_patch_folder(lab.folder / "bias")
    files = patch_files(config, vectors)[1]
    bias = LockedPatch(name="bias", folder=str(lab.folder / "bias"), version="1.1.0", sha256=hashes_to_lock(files))
    put(tmp_path / "policy-patch.lock", lab, versioned(lab, tmp_path / "one", "1.0.0"), bias)
    return tmp_path / "policy-patch.lock"


def put(path, lab, *patches, base: str | None = None) -> None:
    lock = Lock(base=LockedBase(id=base or str(lab.base)), stack=patches, locked_at="2026-01-31T12:00:00Z")
    write_lock(lock, path, replaces=lock_sha256(path))


@pytest.fixture
def running(lab, path):
    settings = GatewaySettings(upstreams=[lab.url], lock=str(path))
    gateway, load = open_gateway(settings)
    admin = admin_app(gateway.patches, load, lambda: reload_lock(gateway, settings))
    with serving(gateway_app(gateway)) as url, serving(admin) as operator:
        yield url, operator.removesuffix("/v1"), gateway, settings


def asked(url, model="base+tox"):
    body = {"model": model, "prompt": "Hello", "max_tokens": 6, "temperature": 0}
    answer = httpx2.post(f"{url}/completions", json=body, trust_env=False)
    return answer.headers["x-policy-patch"].split()[0], answer.json()["choices"][0]["text"]


def models(gateway) -> list[str]:
    return [one["id"] for one in gateway.patches.models()]


def test_the_lock_is_followed_and_rolled_back_without_a_lost_request(running, lab, path, tmp_path):
    url, admin, gateway, _ = running
    assert models(gateway) == ["base+tox", "base+tox@v1.0.0", "base+bias", "base+bias@v1.1.0"]
    body = {"model": "base+tox+bias", "prompt": "Hello", "max_tokens": 2}
    stacked = httpx2.post(f"{url}/completions", json=body, trust_env=False).headers["x-policy-patch"]
    assert "tox@v1.0.0" in stacked and "bias@v1.1.0" in stacked
    before, answers, stop = asked(url), [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(asked(url))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        put(path, lab, versioned(lab, tmp_path / "two", "1.1.0"))
        assert asked(url) == before, "nothing changes before it is asked to"
        swapped = httpx2.post(f"{admin}/lock", timeout=60, trust_env=False)
        assert swapped.status_code == 200 and swapped.json()["patches"][0]["version"] == "1.1.0"
        after = asked(url)
        assert models(gateway) == ["base+tox", "base+tox@v1.1.0"], "exactly what is locked"
        roll_back(path)
        assert httpx2.post(f"{admin}/lock", timeout=60, trust_env=False).status_code == 200
    finally:
        stop.set()
        thread.join()
    assert asked(url) == before and after[0] == "tox@v1.1.0" and after[1] != before[1]
    assert set(answers) <= {before, after} and len(answers) > 2


def test_a_lock_that_is_wrong_changes_nothing(running, lab, path, tmp_path):
    url, admin, gateway, settings = running
    before = asked(url), models(gateway)
    good, text = versioned(lab, tmp_path / "two", "1.1.0"), path.read_text()
    wrong = {**good.sha256, "policy_patch.safetensors": "0" * 64}
    put(path, lab, good, replace(good, name="other", sha256=wrong))
    with pytest.raises(LockMismatchError, match="not what was locked"):
        reload_lock(gateway, settings)
    answer = httpx2.post(f"{admin}/lock", trust_env=False)
    assert answer.status_code == 400 and "LockMismatchError" in answer.json()["error"]
    put(path, lab, good, base="acme/other-base")
    with pytest.raises(ServingError, match=r"is now for the base acme/other-base .*Restart engines"):
        reload_lock(gateway, settings)
    path.write_text("{")
    with pytest.raises(LockError):
        reload_lock(gateway, settings)
    assert (asked(url), models(gateway)) == before
    path.write_text(text)
    reload_lock(gateway, settings)
    assert (asked(url), models(gateway)) == before


def test_beside_a_lock_nothing_else_changes_what_is_served(running, lab, tmp_path):
    _, admin, gateway, _ = running
    before = models(gateway)
    for method, where, body in (
        ("POST", "/patches", {"patch": f"tox={lab.folder / 'harm'}"}), ("POST", "/patches/tox/rollback", None),
        ("DELETE", "/patches/tox/v1.0.0", None),
    ):  # fmt: skip
        answer = httpx2.request(method, admin + where, json=body, trust_env=False)
        assert answer.status_code == 400 and "serves exactly what" in answer.json()["error"], where
    assert models(gateway) == before


def test_settings_that_contradict_each_other_are_refused(lab, path):
    for wrong in ({"patches": lab.specs}, {"base": str(lab.base)}):
        with pytest.raises(ConfigError, match="A lock names base and patches"):
            open_gateway(GatewaySettings(upstreams=[lab.url], lock=str(path), **wrong))
    with pytest.raises(ConfigError, match="or a lock"):
        open_gateway(GatewaySettings(upstreams=[lab.url]))
    settings = GatewaySettings(upstreams=[lab.url], patches=lab.specs[:1], base=str(lab.base))
    gateway, load = open_gateway(settings)
    with pytest.raises(ServingError, match="started without a lock"):
        reload_lock(gateway, settings)
    with serving(admin_app(gateway.patches, load)) as admin:
        answer = httpx2.post(f"{admin.removesuffix('/v1')}/lock", trust_env=False)
        assert answer.status_code == 400 and "without a lock" in answer.json()["error"]
    with pytest.raises(PatchNameError):
        gateway.patches.replace_all([])


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of POSIX")
def test_sighup_reads_the_lock_and_an_error_does_not_end_the_gateway(running, lab, path, tmp_path, monkeypatch, caplog):
    import uvicorn

    _, _, gateway, settings = running
    servers, seen = [], []

    class Server(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    def until(found) -> None:
        end = time.monotonic() + 60
        while not found() and time.monotonic() < end:
            time.sleep(0.01)

    def operator():
        try:
            until(lambda: servers and servers[0].started)
            put(path, lab, versioned(lab, tmp_path / "two", "1.1.0"))
            os.kill(os.getpid(), signal.SIGHUP)
            until(lambda: "base+tox@v1.1.0" in models(gateway))
            seen.append(models(gateway))
            path.write_text("{")
            os.kill(os.getpid(), signal.SIGHUP)
            until(lambda: "The lock was not taken" in caplog.text)
            port = servers[0].servers[0].sockets[0].getsockname()[1]
            seen.append(asked(f"http://127.0.0.1:{port}/v1")[0])
        finally:
            for server in servers:
                server.should_exit = True

    monkeypatch.setattr(uvicorn, "Server", Server)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a signal that comes early ends no test run
    thread = threading.Thread(target=operator)
    thread.start()
    try:
        serve_gateway(gateway, None, port=0, reload=lambda: reload_lock(gateway, settings))
    finally:
        thread.join()
        signal.signal(signal.SIGHUP, before)
    assert seen == [["base+tox", "base+tox@v1.1.0"], "tox@v1.1.0"]
    assert "The lock was not taken, what was served before goes on: LockError" in caplog.text
