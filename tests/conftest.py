"""Fixtures of all tests: one thread, a Hub on loopback and no other network, tiny models in doctests."""

import os
import sys
import tempfile

from tests.hub.fake_hub_more import MoreHub

assert "huggingface_hub" not in sys.modules, "it reads HF_ENDPOINT when it is imported"
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING")) or name == "TRANSFORMERS_OFFLINE"]:
    del os.environ[name]
os.environ.pop("POLICY_PATCH_POLICY", None)  # a policy of this machine would hold for the tests, too
FAKE_HUB = MoreHub(cas="http").__enter__()  # one server a process; the fixture `hub` empties it
os.environ["HF_ENDPOINT"] = FAKE_HUB.url
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="policy-patch-tests-")
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
os.environ["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"] = "2"
os.environ["HF_XET_CLIENT_RETRY_BASE_DELAY"] = "10ms"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores and many small matrices: threads only get in the way
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.slow_tests import slow_tests  # noqa: E402
from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer  # noqa: E402

torch.set_num_threads(1)

# The same examples in each run: a red run is then a change of ours. --hypothesis-profile=default draws others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the table of slow tests names."""
    slow = slow_tests()
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family of tiny models in turn."""
    return request.param


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of all tiny models."""
    return tiny_tokenizer()


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace: dict) -> None:
    """Docstring examples run on the tiny models."""
    doctest_namespace["tiny_model"] = tiny_model
    doctest_namespace["tiny_tokenizer"] = tiny_tokenizer


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub on loopback, empty, with an empty cache, in plain-LFS mode, and no waiting between the client's tries."""
    import huggingface_hub.constants as constants

    # Not the Xet chunks: the client remembers which ones it sent, and does not send them again.
    for store in (FAKE_HUB.repos, FAKE_HUB.blobs, FAKE_HUB.faults, FAKE_HUB.log):
        store.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))  # read at every call
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")  # of the organisation acme, with write access
    return FAKE_HUB
