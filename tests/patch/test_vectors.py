"""Tests of `patch.vectors`: how vectors start, and that their bytes come back to the bit or not at all."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.torch import load, save

from policy_patch import PolicyPatchConfig
from policy_patch.errors import ConfigError, PatchFileError, TokenizerRequiredError
from policy_patch.patch.tensor_file import config_hash_in
from policy_patch.patch.vectors import (
    check_finite,
    check_norms,
    initial_vectors,
    vectors_from_bytes,
    vectors_to_bytes,
)
from tests.tiny_models import tiny_model

SHAPE = (3, 8)
CONFIG = PolicyPatchConfig(num_virtual_tokens=SHAPE[0], hidden_size=SHAPE[1])
VECTORS = torch.arange(24, dtype=torch.float32).reshape(SHAPE)
HASH = "0123456789abcdef" * 4
METADATA = {"format_version": "1", "config_sha256": HASH}

finite = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=5),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def start(init: str, number: int = 40, family: str = "llama", tokenizer=None, **options) -> torch.Tensor:
    config = PolicyPatchConfig(num_virtual_tokens=number, init=init, **options)
    return initial_vectors(config, tiny_model(family).get_input_embeddings(), tokenizer)


def file_of(header: dict | bytes, data: bytes = b"") -> bytes:
    """Return a safetensors file with any header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


# How they start


@pytest.mark.parametrize("number", [1, 3, 7, 8, 20])
def test_text_starts_from_the_embeddings_of_the_instruction_repeated_or_cut(family, tokenizer, number):
    embeddings = tiny_model(family).get_input_embeddings()
    ids = tokenizer("Be kind", add_special_tokens=False)["input_ids"]
    assert len(ids) == 7
    with torch.no_grad():
        expected = torch.stack([embeddings(torch.tensor(ids[at % 7])) for at in range(number)])
    vectors = start("text", number, family, tokenizer, init_text="Be kind")
    assert torch.equal(vectors, expected)
    assert vectors.dtype == torch.float32 and not vectors.requires_grad


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(TokenizerRequiredError, match=r'`init="text"` .* Give `tokenizer=`, or use `init="vocab"`'):
        start("text", init_text="Be kind")


def test_text_without_words_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"needs an `init_text`; there is no default for `risk='spam'`"):
        start("text", tokenizer=tokenizer, risk="spam")

    def no_tokens(text, **options):
        return {"input_ids": []}

    with pytest.raises(ConfigError, match=r"`init_text='Be kind'` has no tokens"):
        start("text", tokenizer=no_tokens, init_text="Be kind")


@pytest.mark.parametrize("init", ["vocab", "random"])
def test_a_drawn_start_depends_on_its_seed_alone(init):
    torch.manual_seed(5)
    first = start(init, init_seed=1)
    torch.manual_seed(6)
    assert torch.equal(start(init, init_seed=1), first)
    assert not torch.equal(start(init, init_seed=2), first)


@pytest.mark.parametrize("init", ["vocab", "random"])
def test_a_drawn_start_leaves_the_random_state_of_torch_alone(init):
    state = torch.get_rng_state()
    initial_vectors(PolicyPatchConfig(init=init), torch.nn.Embedding.from_pretrained(torch.ones(4, 2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_vocab_starts_from_different_rows_of_the_embedding_table(family):
    table = tiny_model(family).get_input_embeddings()(torch.arange(259)).detach()
    vectors = start("vocab", family=family)
    matches = (vectors.unsqueeze(1) == table).all(-1)  # (40, 259)
    assert matches.any(1).all()
    assert matches.any(0).sum() > 30


def test_random_has_the_scale_of_the_embedding_table(family):
    table = tiny_model(family).get_input_embeddings()(torch.arange(259)).detach()
    vectors = start("random", 2000, family)
    assert vectors.std() == pytest.approx(table.std().item(), rel=0.02)
    assert vectors.mean() == pytest.approx(table.mean().item(), abs=0.02 * table.std().item())
    assert not (vectors.unsqueeze(1)[:50] == table).all(-1).any()


def test_vectors_of_a_half_precision_base_are_fp32():
    embeddings = tiny_model().bfloat16().get_input_embeddings()
    assert initial_vectors(PolicyPatchConfig(init="random"), embeddings).dtype == torch.float32


# Bytes


@given(finite)
def test_bytes_come_back_to_the_bit(values):
    vectors = torch.from_numpy(values)
    config = PolicyPatchConfig(num_virtual_tokens=values.shape[0], hidden_size=values.shape[1])
    content = vectors_to_bytes(vectors, HASH)
    back = vectors_from_bytes(content, config, "x")
    assert np.array_equal(back.numpy().view(np.int32), values.view(np.int32))  # tells 0.0 from -0.0
    assert vectors_to_bytes(back, HASH) == content


def test_the_file_holds_one_fp32_tensor_the_format_version_and_the_hash_of_the_configuration():
    content = vectors_to_bytes(VECTORS.bfloat16().requires_grad_(), HASH)
    assert {key: value.dtype for key, value in load(content).items()} == {"patch": torch.float32}
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0, "tensors begin where safetensors' own writer begins them"
    assert json.loads(content[8 : 8 + length])["__metadata__"] == METADATA
    assert config_hash_in(content, "x") == HASH


def test_it_is_the_file_of_safetensors_in_the_one_order_that_is_the_same_each_time():
    ours = vectors_to_bytes(VECTORS, HASH)
    theirs = {save({"patch": VECTORS}, metadata=METADATA) for _ in range(64)}
    assert ours in theirs, "its order is one of chance: all 64 tries are the other one once in 10**19 times"


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"format_version": "1"},
        {"config_sha256": HASH},
        {**METADATA, "author": "somebody"},
        {**METADATA, "format_version": "2"},
        {**METADATA, "format_version": "01"},
        {**METADATA, "config_sha256": ""},
        {**METADATA, "config_sha256": HASH[:-1]},
        {**METADATA, "config_sha256": HASH.upper()},
        {**METADATA, "config_sha256": HASH + "\n"},
        {"Format_version": "1", "config_sha256": HASH},
    ],
)
def test_metadata_that_is_unknown_or_missing_is_refused(metadata):
    content = save({"patch": VECTORS}, metadata=metadata)
    for read in (lambda: vectors_from_bytes(content, CONFIG, "x"), lambda: config_hash_in(content, "x")):
        with pytest.raises(
            PatchFileError, match=r"x has the metadata .*; expected `format_version`, which is '1', and `con"
        ):
            read()
    with pytest.raises(PatchFileError, match="x has the metadata"):
        vectors_from_bytes(vectors_to_bytes(VECTORS), CONFIG, "x")  # bytes for comparing alone are no file


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('"patch":ENTRY,"patch":ENTRY', "The header of x is damaged .it has the key `patch` twice"),
        ('"patch":ENTRY,"__metadata__":METADATA', "x is damaged .*duplicate field `__metadata__`"),
        (
            '"patch":{"dtype":"F32","dtype":"F32","shape":[3,8],"data_offsets":[0,96]}',
            "x is damaged .*duplicate field `dtype`",
        ),
        ('"patch":{"dtype":"F32","shape":[3,8],"data_offsets":[0,96],"more":1}', "nothing more in its header"),
    ],
)
def test_a_header_that_readers_understand_differently_is_refused(entry, words):
    known = {"ENTRY": {"dtype": "F32", "shape": [3, 8], "data_offsets": [0, 96]}, "METADATA": METADATA}
    header = '{"__metadata__":METADATA,' + entry + "}"
    for name, value in known.items():
        header = header.replace(name, json.dumps(value))
    with pytest.raises(PatchFileError, match=words):
        vectors_from_bytes(file_of(header.encode(), VECTORS.numpy().tobytes()), CONFIG, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_neither_written_nor_read(value):
    vectors = VECTORS.clone()
    vectors[1, 2] = vectors[2, 3] = value
    with pytest.raises(PatchFileError, match=r"the vectors hold 2 NaN or infinite values of 24. .* learning rate"):
        vectors_to_bytes(vectors)
    with pytest.raises(PatchFileError, match=r"x.safetensors hold 2 NaN or infinite values of 24"):
        vectors_from_bytes(save({"patch": vectors}), CONFIG, "x.safetensors")
    with pytest.raises(PatchFileError, match="these hold 1 NaN"):
        check_finite(vectors[:2], "these")


def test_a_number_beyond_fp32_is_not_written_as_infinity():
    with pytest.raises(PatchFileError, match="hold 1 NaN or infinite"):
        vectors_to_bytes(torch.tensor([[1e300]], dtype=torch.float64))


def test_a_file_cut_anywhere_is_refused():
    content = vectors_to_bytes(VECTORS, HASH)
    for end in range(len(content)):
        with pytest.raises(PatchFileError, match=rf"x is damaged \({end} bytes"):
            vectors_from_bytes(content[:end], CONFIG, "x")
    with pytest.raises(PatchFileError, match=rf"x is damaged \({len(content) - 1} bytes of {len(content)};"):
        vectors_from_bytes(content[:-1], CONFIG, "x")
    with pytest.raises(PatchFileError, match="x is damaged"):
        vectors_from_bytes(content + b"\0", CONFIG, "x")


@pytest.mark.parametrize("tensors", [{"prompt": VECTORS}, {"patch": VECTORS, "more": VECTORS.clone()}])
def test_other_tensors_are_refused(tensors):
    with pytest.raises(PatchFileError, match=r"x holds the tensors \[.*\]; expected exactly one named 'patch'"):
        vectors_from_bytes(save(tensors), CONFIG, "x")


@pytest.mark.parametrize(
    "vectors", [VECTORS[:2], VECTORS.T.contiguous(), VECTORS.reshape(-1), VECTORS.unsqueeze(0), VECTORS[:, :0]]
)
def test_another_shape_than_the_configuration_says_is_refused(vectors):
    with pytest.raises(PatchFileError, match=r"a tensor of shape \(.*\) and dtype F32; .* says \(3, 8\)"):
        vectors_from_bytes(save({"patch": vectors}), CONFIG, "x")


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (torch.float64, "F64"), (torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.int32, "I32"),
        (torch.bool, "BOOL"), (torch.float8_e4m3fn, "F8_E4M3"),
    ],
)  # fmt: skip
def test_another_dtype_is_refused(dtype, named):
    with pytest.raises(PatchFileError, match=rf"and dtype {named}; .* in F32"):
        vectors_from_bytes(save({"patch": VECTORS.to(dtype)}), CONFIG, "x")


def test_a_configuration_without_hidden_size_reads_nothing():
    with pytest.raises(PatchFileError, match=r"says \(3, None\)"):
        vectors_from_bytes(vectors_to_bytes(VECTORS, HASH), PolicyPatchConfig(num_virtual_tokens=3), "x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        file_of({}),
        file_of(b"[" * 50_000),
        file_of(b"\xff\xfe"),
        file_of({"patch": 3}),
        file_of({"patch": {"dtype": "F32", "shape": [3, 8], "data_offsets": [0]}}),
        file_of({"patch": {"dtype": "F32", "shape": [3, 8], "data_offsets": ["a", "b"]}}),
        file_of({"patch": {"dtype": "F32", "shape": [3, 8], "data_offsets": [0, 96]}}),
        file_of({"patch": {"dtype": "F4", "shape": [1, 2], "data_offsets": [0, 1]}}, b"\0"),  # torch has no such dtype
        file_of({"patch": {"dtype": "F8_E8M0", "shape": [1, 1], "data_offsets": [0, 1]}}, b"\0"),
    ],
)
def test_a_file_made_to_break_the_reader_is_refused(content):
    with pytest.raises(PatchFileError, match=r"^x (is damaged|holds the tensors|holds a tensor)"):
        vectors_from_bytes(content, CONFIG, "x")


@given(st.data())
@settings(max_examples=200)
def test_changed_bytes_give_vectors_of_the_right_shape_or_our_error(data):
    content = bytearray(vectors_to_bytes(VECTORS, HASH))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        vectors = vectors_from_bytes(bytes(content), CONFIG, "x")
    except PatchFileError:
        return
    assert vectors.shape == SHAPE and vectors.isfinite().all()


# Norms


def test_vectors_beyond_any_embedding_by_orders_are_refused(family):
    embeddings = tiny_model(family).get_input_embeddings()
    longest = embeddings(torch.arange(259)).norm(dim=1).max().detach()
    usual = torch.nn.functional.normalize(VECTORS + 1, dim=1) * longest
    for good in (usual, 99 * usual, 1e-42 * usual, 0 * usual):
        check_norms(good, embeddings, "these")
    for bad in (102, 1e6, 1e30):
        with pytest.raises(
            PatchFileError, match=r"these hold a vector of norm .*; .*at most 100 times .*`allow_large_v"
        ):
            check_norms(torch.cat([usual[1:], bad * usual[:1]]), embeddings, "these")


def test_embeddings_that_cannot_be_read_here_limit_nothing():
    huge = 1e30 * VECTORS
    check_norms(huge, torch.nn.Embedding(9, 8, device="meta"), "these")
    check_norms(huge, torch.nn.Embedding.from_pretrained(torch.zeros(9, 8)), "these")
    sharded = torch.nn.Embedding(9, 8)
    sharded.weight.data = torch.empty(0)  # as DeepSpeed leaves it
    check_norms(huge, sharded, "these")


def test_offloaded_embeddings_are_read():
    from accelerate import cpu_offload

    base = cpu_offload(tiny_model(), execution_device="cpu")
    embeddings = base.get_input_embeddings()
    assert next(embeddings.parameters()).is_meta
    check_norms(0.01 * VECTORS, embeddings, "these")
    with pytest.raises(PatchFileError, match="these hold a vector of norm"):
        check_norms(1e6 * VECTORS, embeddings, "these")
