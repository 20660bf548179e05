"""A customer's way: signed patches from the Hub, checked, locked, stacked, served, asked by curl, swapped and removed.

The engine is a stand-in that computes; base, patches and keys are made here. Commands are typed, or were printed.
"""

import json
import re
import signal
import socket
import threading

import pytest
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from tests.journeys.own_models import ASKED, write_models
from tests.journeys.shell import Shell
from tests.serving.fake_vllm import FakeVllm, serving
from tests.trust.conftest import write_key

PROMPT = "the judge said that Tom is a"
SCRIPT = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
from policy_patch import PolicyPatchModel

base, tokenizer = AutoModelForCausalLM.from_pretrained("acme/base"), AutoTokenizer.from_pretrained("acme/base")
rows = tokenizer("{PROMPT}", return_tensors="pt", return_token_type_ids=False)
answer = lambda model: tokenizer.decode(model.generate(**rows, max_new_tokens=4, do_sample=False)[0])
print(answer(base))
model = PolicyPatchModel.from_pretrained(base, ["tox-patch", "acme/bias-patch@v1.0.0"])
print(repr(model), answer(model), sep="\\n")
model.delete_patch("bias-patch")
model.unload()
print(answer(base))
"""


@pytest.fixture
def world(hub, tmp_path):
    """A Hub with a base and signed patches of somebody else, the engine of this customer, and a shell."""
    pytest.importorskip("model_signing")
    folder = tmp_path / "customer"
    folder.mkdir()
    write_models(tmp_path, names=("base",))
    write_key(folder / "acme.key")
    api = HfApi(token="hf_alice")
    api.create_repo("acme/base")
    api.upload_folder(repo_id="acme/base", folder_path=tmp_path / "base")
    base, tokenizer = (loader.from_pretrained(tmp_path / "base") for loader in (AutoModelForCausalLM, AutoTokenizer))
    for repo, risk, text, versions in (
        ("acme/tox-patch", "toxicity", ASKED, ("1.0.0", "1.1.0")),
        ("acme/bias-patch", "gender_bias", "the person is a", ("1.0.0",)),
    ):
        for version in versions:
            config = PolicyPatchConfig(
                num_virtual_tokens=6,
                risk=risk,
                init_text=text,
                patch_version=version,
                base_model_name_or_path="acme/base",
            )
            model = get_policy_patch_model(base, config, tokenizer)
            model.patches["default"].data.mul_(1 + 0.01 * int(version[2]))
            model.push_to_hub(repo, private_key=folder / "acme.key")
            model.unload()
    (folder / "acme.key").unlink()  # the customer has the public one
    (folder / "remove.py").write_text(SCRIPT)
    with serving(FakeVllm(base, tokenizer).app()) as engine:
        yield Shell(folder, HF_TOKEN="hf_alice"), engine


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def models_at(shell, port):
    listed = json.loads(shell(f"curl --silent --fail http://127.0.0.1:{port}/v1/models"))
    return {one["id"]: one["policy_patch"] for one in listed["data"]}


def wait_for(shell, gateway, port, model, *, is_there=True):
    """Ask for the models that are served until one is there, or gone; nobody listens until the gateway is up."""
    for _ in range(600):
        try:
            if (model in models_at(shell, port)) is is_there:
                return
        except AssertionError:
            assert gateway.poll() is None, (shell.folder / "gateway.log").read_text()
        threading.Event().wait(0.4)  # `time.sleep` does not wait here
    raise AssertionError(f"{model} {is_there=} did not come: {(shell.folder / 'gateway.log').read_text()}")


def test_from_a_signed_patch_on_the_hub_to_a_swap_under_way_and_out_again(world):
    customer, engine = world
    customer("policy-patch pull acme/tox-patch --key acme.pub")
    [info] = customer.next
    assert "1.1.0" in customer(info)
    customer("policy-patch verify tox-patch --key acme.pub")

    customer('policy-patch lock "tox=acme/tox-patch@~1.0" "bias=acme/bias-patch" --key acme.pub')
    [apply] = customer.next
    customer(f"{apply} --check_base --key acme.pub")
    assert "the base is the right one" in customer.told

    port = free_port()
    with open(customer.folder / "gateway.log", "w") as log:
        gateway = customer.start(
            f"policy-patch gateway --upstream {engine} --lock policy-patch.lock --no_chat --port {port}", stderr=log
        )
    try:
        wait_for(customer, gateway, port, "base+tox")
        asked = json.dumps({"model": "base+tox+bias", "prompt": PROMPT, "max_tokens": 4, "temperature": 0})
        line = f"curl --silent http://127.0.0.1:{port}/v1/completions -H 'Content-Type: application/json' -d '{asked}'"
        answer = json.loads(customer(line))
        assert [one["version"] for one in answer["policy_patch"]] == ["1.0.0", "1.0.0"]
        assert answer["policy_patch_base"]["id"] == "acme/base" and len(answer["policy_patch_base"]["commit"]) == 40

        customer('policy-patch upgrade --to "tox=^1.0" --key acme.pub')
        assert customer.next == [apply]
        back = re.search(r"To go back: `(.*)`\.", customer.told)[1]
        gateway.send_signal(signal.SIGHUP)
        wait_for(customer, gateway, port, "base+tox@v1.1.0")
        assert json.loads(customer(line))["policy_patch"][0]["version"] == "1.1.0"

        customer(back)
        gateway.send_signal(signal.SIGHUP)
        wait_for(customer, gateway, port, "base+tox@v1.0.0")
        customer('policy-patch lock "bias=acme/bias-patch"')
        gateway.send_signal(signal.SIGHUP)
        wait_for(customer, gateway, port, "base+tox", is_there=False)
        assert json.loads(customer(line))["error"]["code"] == 404 and "base+bias" in models_at(customer, port)
    finally:
        gateway.terminate()
        gateway.wait(30)
    assert '"serving": [{"id": "base+tox"' in (customer.folder / "gateway.log").read_text()

    before, *shown, stacked, after = customer("python remove.py").strip().splitlines()
    assert before == after != stacked
    assert any("tox-patch 1.1.0" in one for one in shown) and any("acme/bias-patch@" in one for one in shown)
