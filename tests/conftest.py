"""Fixtures of all tests: one thread, no network, no telemetry, tiny models in doctests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores and many small matrices: threads only get in the way
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer

torch.set_num_threads(1)


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
