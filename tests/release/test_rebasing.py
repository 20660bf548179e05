"""Tests of the map from one base's vectors to another's: exact where the bases are the same function of other weights.

A Llama whose hidden states are all rotated computes the same function; its embeddings are the old ones, rotated.
"""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.config import PolicyPatchConfig as Config
from policy_patch.errors import BaseMismatchError, ConfigError, ModelLoadError
from policy_patch.patch.folder import patch_hash
from policy_patch.release.rebasing import (
    explained,
    next_breaking,
    old_base,
    rebased_config,
    rebased_vectors,
    shared_tokens,
    token_map,
)
from tests.definition import logits_by_definition
from tests.tiny_models import VOCAB_SIZE, tiny_model, tiny_tokenizer

ROW = [1, 40, 41, 42, 43]
TOLERANCE = 1e-4


class Words:
    """A vocabulary, as far as a tokenizer's is needed here."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens)

    def get_vocab(self):
        return {token: place for place, token in enumerate(self.tokens)}


def rotated(base, order, matrix):
    """The same function of other weights: hidden states times an orthogonal matrix, and tokens in another order."""
    new = copy.deepcopy(base)
    with torch.no_grad():
        new.model.embed_tokens.weight.copy_(base.model.embed_tokens.weight[order] @ matrix)
        new.lm_head.weight.copy_(base.lm_head.weight[order] @ matrix)
        for layer in new.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for into in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                into.weight.copy_(into.weight @ matrix)
            for out in (attention.o_proj, mlp.down_proj):
                out.weight.copy_(matrix.T @ out.weight)
    return new


@pytest.fixture(scope="module")
def bases():
    """The old base, the new one, their vocabularies, and for each new token its old place."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64))[0].float()
    order = torch.randperm(VOCAB_SIZE, generator=generator)
    tokens = [f"t{place}" for place in range(VOCAB_SIZE)]
    old = tiny_model()
    return old, rotated(old, order, matrix), Words(tokens), Words([tokens[place] for place in order]), order


@pytest.fixture(scope="module")
def vectors():
    return torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) * 0.3


def test_mapped_vectors_do_on_the_new_base_what_they_did_on_the_old_one(bases, vectors):
    old, new, words, new_words, order = bases
    place_of = {int(token): place for place, token in enumerate(order)}
    row = [place_of[token] for token in ROW]
    mapped, found = rebased_vectors(vectors, old, words, new, new_words)
    assert found.kind == "tokens" and found.mapped_fit > 0.999 > 0.5 > found.unchanged_fit
    assert found.shared_tokens == VOCAB_SIZE
    with torch.no_grad():
        expected = logits_by_definition(old, vectors, ROW, "before_bos")
        reached = logits_by_definition(new, mapped, row, "before_bos")[
            :, [place_of[token] for token in range(VOCAB_SIZE)]
        ]
        unmapped = logits_by_definition(new, vectors, row, "before_bos")[
            :, [place_of[token] for token in range(VOCAB_SIZE)]
        ]
    # The ridge of 1e-4 leaves an error of that size in the vectors.
    assert (reached - expected).abs().max() < 0.02 * expected.abs().max()
    assert (unmapped - expected).abs().max() > 0.2 * expected.abs().max(), "the map is what does it"


def test_only_shared_tokens_count_whatever_mark_their_space_has():
    assert shared_tokens(Words(["a", "\u2581b", "c"]), Words(["x", "c", "\u0120b"])) == ([2, 1], [1, 2])


def test_tokens_that_one_base_lacks_are_left_out(bases, vectors):
    old, new, words, new_words, _ = bases
    fewer = Words([token if place % 2 else f"new{place}" for place, token in enumerate(new_words.tokens)] + ["more"])
    _, found = rebased_vectors(vectors, old, words, new, fewer)
    assert found.shared_tokens == VOCAB_SIZE // 2 and found.kind == "tokens"


def test_vectors_stay_as_they_are_where_embeddings_hardly_moved(vectors):
    old = tiny_model()
    new = copy.deepcopy(old)
    words = Words([f"t{place}" for place in range(VOCAB_SIZE)])
    with torch.no_grad():
        new.model.embed_tokens.weight.add_(0.001 * torch.randn(VOCAB_SIZE, 32))
    kept, found = rebased_vectors(vectors, old, words, new, words)
    assert found.kind == "identity" and torch.equal(kept, vectors) and found.unchanged_fit > 0.99
    forced, found = rebased_vectors(vectors, old, words, new, words, mapping="tokens")
    assert found.kind == "tokens" and not torch.equal(forced, vectors)


def test_unrelated_embeddings_explain_nothing_and_are_not_mapped(vectors):
    words = Words([f"t{place}" for place in range(VOCAB_SIZE)])
    _, found = rebased_vectors(vectors, tiny_model(seed=0), words, tiny_model(seed=1), words)
    assert found.fit < 0.5 and found.mapped_fit < 0.5


def test_too_few_shared_tokens_are_refused():
    with pytest.raises(BaseMismatchError, match=r"share 99 tokens; expected at least 100.*Train a new patch"):
        token_map(torch.randn(99, 4), torch.randn(99, 4), sizes=(99, 99))
    with pytest.raises(ConfigError, match="`mapping='linear'`: expected one of auto, identity, tokens"):
        token_map(torch.randn(200, 4), torch.randn(200, 4), sizes=(200, 200), mapping="linear")


def test_what_is_explained_is_one_for_equal_and_less_for_others():
    true = torch.randn(50, 8)
    assert explained(true, true) == 1 and explained(true.mean(dim=0).expand(50, 8), true) == pytest.approx(0)
    assert explained(-true, true) < 0


@pytest.fixture
def old_config():
    model = PolicyPatchModel(tiny_model())
    config = PolicyPatchConfig(
        num_virtual_tokens=4, init="vocab", patch_version="1.4.2", base_model_name_or_path="acme/base",
        base_model_revision="1" * 40, conflicts=["risk:a"],
    )  # fmt: skip
    model.add_patch("a", config)
    return model.patch_config["a"], model.patches["a"].detach()


def test_the_new_configuration_says_what_it_was_rebased_from(old_config):
    config, _ = old_config
    new, tokenizer, sha256 = tiny_model(seed=3), tiny_tokenizer(), patch_hash(*old_config)
    found = rebased_config(
        config, new, tokenizer, name="acme/base-2", sha256=sha256, mapping="identity", origin=("acme/tox", "2" * 40)
    )
    assert found.rebased_from == {
        "id": "acme/tox", "commit": "2" * 40, "patch_version": "1.4.2", "sha256": sha256,
        "base_model_name_or_path": "acme/base", "base_model_revision": "1" * 40, "mapping": "identity",
    }  # fmt: skip
    assert (found.patch_version, found.base_model_name_or_path, found.base_model_revision) == (
        "2.0.0",
        "acme/base-2",
        None,
    )
    assert found.base_fingerprint != config.base_fingerprint and found.conflicts == ["risk:a"]
    assert Config.from_json(found.to_json()) == found
    given = rebased_config(config, new, tokenizer, name="n", sha256=sha256, mapping="identity", patch_version="1.5.0")
    assert given.patch_version == "1.5.0" and "id" not in given.rebased_from


def test_another_hidden_size_is_refused_with_the_reason(old_config):
    config, _ = old_config
    with pytest.raises(BaseMismatchError, match=r"vectors of 16 numbers.*has a hidden size of 32.*train a new patch"):
        rebased_config(
            replace(config, hidden_size=16), tiny_model(), tiny_tokenizer(), name="b", sha256="", mapping="identity"
        )


def test_the_next_breaking_version():
    assert [next_breaking(one) for one in ("0.0.3", "0.9.1", "1.0.0", "12.3.4+b")] == [
        "0.1.0",
        "0.10.0",
        "2.0.0",
        "13.0.0",
    ]


def test_only_the_embeddings_of_the_old_base_are_read():
    found, tokenizer = old_base(SimpleNamespace(base_model_name_or_path="lab:base", base_model_revision=None))
    assert found.rows.weight.shape == (1536, 128) and len(tokenizer) == 1536
    with pytest.raises(ConfigError, match=r'names no base.*`mapping="identity"`'):
        old_base(SimpleNamespace(base_model_name_or_path=None, base_model_revision=None))
    with pytest.raises(ModelLoadError):
        old_base(SimpleNamespace(base_model_name_or_path="./nowhere", base_model_revision=None))
