"""Tests of `policy-patch gateway`: what it says, its exit codes, and that it serves and ends."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import uvicorn

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.cli import main
from tests.serving.fake_vllm import FakeVllm, serving
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    base, tokenizer = tiny_model(), tiny_tokenizer()
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    config = PolicyPatchConfig(num_virtual_tokens=3, init="random", base_model_name_or_path=str(folder / "base"))
    get_policy_patch_model(base, config, tokenizer).save_pretrained(folder / "tox")
    with serving(FakeVllm(tiny_model(), tokenizer).app()) as url:
        yield folder, url


def test_it_serves_clients_and_the_operator_until_it_is_stopped(lab, capsys, monkeypatch):
    folder, url = lab
    port, admin = free_ports()
    servers = []

    class Server(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(uvicorn, "Server", Server)
    words = ["gateway", "--upstream", url, "--patch", str(folder / "tox"), "--json", "--port", str(port)]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(main, [*words, "--admin_port", str(admin)])
        try:
            listed = wait_for(f"http://127.0.0.1:{port}/v1/models", running)["data"]
            operator = wait_for(f"http://127.0.0.1:{admin}/patches", running)["patches"]
        finally:
            for server in servers:
                server.should_exit = True
        assert running.result(30) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [one["id"] for one in listed] == [one["id"] for one in operator] == told["models"]
    assert told == {"url": f"http://127.0.0.1:{port}/v1", "models": ["base+tox", "base+tox@v0.1.0"], "checked": True}
    assert "Checked http://127.0.0.1" in err and [one.config.host for one in servers] == ["127.0.0.1"] * 2


def test_an_engine_that_fails_the_check_is_exit_code_1(lab, capsys):
    folder, _ = lab
    other = FakeVllm(tiny_model(seed=1), tiny_tokenizer())
    with serving(other.app()) as url:
        assert main(["gateway", "--upstream", url, "--patch", str(folder / "tox")]) == 1
    assert "serves another base" in capsys.readouterr().err.replace("\n", " ")


def test_a_patch_that_is_not_there_is_bad_usage(lab, capsys):
    _, url = lab
    assert main(["gateway", "--upstream", url, "--patch", "./nothing"]) == 2
    assert "neither a folder nor a name like" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--upstream", "{url}"], "one patch (`--patch`), or a lock (`--lock`)"),
        (["--upstream", "{url}", "--patch", "{patch}", "--upstream_kind", "x"], "`upstream_kind='x'`: expected one of"),
        (["--upstream", "{url}", "--patch", "{patch}", "--lock", "x.lock"], "leave `--patch` and `--base` out"),
        (["--upstream", "{url}", "--patch", "{patch}", "--upstream_kind", "baked"], "(`--probe`)"),
        (["--upstream", "{url}", "--patch", "{patch}", "--dtype", "float99"], "`dtype='float99'`: expected one of"),
        (["--upstream", "localhost", "--patch", "{patch}"], "does not begin with `http://`"),
    ],
)
def test_options_that_cannot_go_together_are_bad_usage(lab, capsys, words, message):
    folder, url = lab
    with pytest.raises(SystemExit) as stopped:
        main(["gateway", *(word.format(url=url, patch=folder / "tox") for word in words)])
    assert stopped.value.code == 2
    usage, help_, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: policy-patch gateway --upstream") and help_.endswith("gateway --help")
    assert error.startswith("error: ") and message in error


def free_ports():
    """Return two ports that nobody had a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(url, running):
    end = time.monotonic() + 20
    while True:
        try:
            return httpx2.get(url, trust_env=False).json()
        except httpx2.HTTPError:
            assert time.monotonic() < end and not running.done(), running.result()
            time.sleep(0.05)
