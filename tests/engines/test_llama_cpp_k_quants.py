"""Tests of patches in GGUF files of K-quants, in llama.cpp: quantised by its own code, edited by ours.

The mixtures are those of llama.cpp's Q4_K_M and Q5_K_M. The reference is the patched model in transformers with the
same weights, so that only the rounding of activations is left.
"""

import copy
import ctypes
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from policy_patch.export.gguf_architectures import laid_out, written_name
from policy_patch.export.gguf_edit import FILE_NAME
from policy_patch.export.gguf_export import write_patched_gguf
from policy_patch.export.gguf_file import Tensor, read_gguf, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_rows import numbers
from policy_patch.export.gguf_vocabulary import TOKENS
from tests.engines.llama_cpp import WHY, llama_cpp
from tests.export.gguf_bases import bpe_tokenizer, patched, saved

xllamacpp = pytest.importorskip("xllamacpp", reason=WHY)
SHAPE = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 256, "initializer_range": 0.05,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FINER = ("output.weight", "attn_v.weight", "ffn_down.weight")  # in Q6_K where the rest is a K-quant "M"
TEXTS = ("the man", "an hen and the hut", "Hi!")


def quantised(tensor, kind):
    """Return a matrix in a type, rounded by llama.cpp itself."""
    quantise = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    whole = np.ascontiguousarray(tensor.load(), dtype=np.float32)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    stored = np.empty((whole.shape[0], whole.shape[1] // block * size), dtype=np.uint8)
    first, rows, length = map(ctypes.c_int64, (0, *whole.shape))
    given = whole.ctypes.data_as(ctypes.c_void_p), stored.ctypes.data_as(ctypes.c_void_p)
    number = ctypes.c_int(gguf.GGMLQuantizationType[kind])
    assert quantise(number, *given, first, rows, length, None) == stored.size
    return Tensor(tensor.name, whole.shape, kind, lambda: stored)


def mixture(content, kind):
    """Return a file's content with its matrices in `kind`, a few of them finer."""
    finer = "Q6_K" if kind.endswith("_K") else kind
    return replace(content, tensors={
        name: tensor if len(tensor.shape) == 1 else quantised(tensor, finer if name.endswith(FINER) else kind)
        for name, tensor in content.tensors.items()
    })  # fmt: skip


def with_weights(base, content):
    """Return a copy of the base with the weights of a file."""
    found = copy.deepcopy(base)
    for own, weight in found.named_parameters():
        tensor = content.tensors[written_name(own, base.config)]
        stored = torch.from_numpy(numbers(tensor) if weight.dim() == 2 else tensor.load().astype(np.float32))
        places = torch.arange(len(weight)).view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape).float()
        order = laid_out(own, places, base.config).reshape(len(weight), -1)[:, 0].long()  # rows are in another order
        with torch.no_grad():
            weight[order] = stored
    return found


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q8_0"])
def test_a_patch_added_to_a_quantised_file_does_what_it_does_in_transformers(tmp_path, kind):
    torch.manual_seed(0)
    tokenizer = bpe_tokenizer()
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=len(tokenizer))).eval()
    content = mixture(gguf_of_folder(saved(base, tokenizer, tmp_path / "base"), weight_type="F32"), kind)
    write_gguf(tmp_path / "base.gguf", content)
    model = patched(base, tokenizer, tox=6)
    done = write_patched_gguf(model, tokenizer, tmp_path / "out", source=tmp_path / "base.gguf", probe=False)
    ids, file = done.facts["token_ids"], tmp_path / "out" / FILE_NAME
    found = read_gguf(file)
    for name, tensor in content.tensors.items():
        edited = name in ("token_embd.weight", "output.weight")
        kept = edited or np.array_equal(found.tensors[name].load(), tensor.load())
        assert kept and (edited or found.tensors[name].type == tensor.type), name
    rounded = patched(with_weights(base, content), tokenizer, tox=6)
    rounded.patches["tox"].data.copy_(model.patches["tox"])
    worst = {"patch": [], "reversed": [], "base": [], "before rounding": []}
    with llama_cpp(file) as engine:
        for text in TEXTS:
            row = [1, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            with torch.no_grad():
                expected, unrounded = (
                    one(torch.tensor([row])).logits[0, -1].log_softmax(-1).numpy() for one in (rounded, model)
                )
            for case, prefix in (("patch", ids), ("reversed", ids[::-1]), ("base", [])):
                got = engine.log_probs([1, *prefix, *row[1:]], len(found.get(TOKENS)))[: len(expected)]
                got -= np.log(np.exp(got).sum())  # without the patch tokens
                worst[case].append(np.abs(got - expected).max())
                worst["before rounding"] += [np.abs(got - unrounded).max()] if case == "patch" else []
    assert max(worst["patch"]) < 0.15, "llama.cpp rounds activations, too: 0.04 to 0.10 here"
    assert min(worst["reversed"]) > 0.5 and min(worst["base"]) > 1, "controls"
    assert kind == "Q8_0" or sum(worst["before rounding"]) > 2 * sum(worst["patch"]), "control: the weights are coarse"
