"""Tests of `gguf_file`: what is written is read again, half of a file is nothing, and strange files are our errors."""

import errno

import gguf
import numpy as np
import pytest

from policy_patch.errors import ExportError, MissingExtraError
from policy_patch.export.gguf_file import GGUFContent, Tensor, Value, read_gguf, write_gguf

VALUES = {
    "a.byte": Value(200, "UINT8"),
    "a.small": Value(-3, "INT16"),
    "a.large": Value(2**40, "UINT64"),
    "a.number": Value(0.5, "FLOAT32"),
    "a.truth": Value(True, "BOOL"),
    "a.text": Value("Schöne Grüße ▁", "STRING"),
    "a.texts": Value(["", "x", "\n"], "ARRAY", "STRING"),
    "a.numbers": Value([-1, 2], "ARRAY", "INT32"),
}
NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)
MATRIX = Tensor("m.weight", (3, 4), "F32", lambda: NUMBERS)
VECTOR = Tensor("v.weight", (5,), "F16", lambda: np.ones(5, dtype=np.float16))
CONTENT = GGUFContent("llama", VALUES, {"m.weight": MATRIX, "v.weight": VECTOR})


@pytest.fixture
def file(tmp_path):
    write_gguf(tmp_path / "model.gguf", CONTENT)
    return tmp_path / "model.gguf"


def test_what_is_written_is_read_again(file):
    found = read_gguf(file)
    assert found.architecture == "llama" and found.values == VALUES
    assert {name: (each.shape, each.type) for name, each in found.tensors.items()} == {
        "m.weight": ((3, 4), "F32"),
        "v.weight": ((5,), "F16"),
    }
    assert np.array_equal(found.tensors["m.weight"].load(), NUMBERS)
    assert (found.tensors["m.weight"].rows, found.tensors["m.weight"].row_bytes) == (3, 16)
    assert found.get("a.byte") == 200 and found.get("missing", 7) == 7 and found.setting("block_count") is None


def test_a_copy_has_the_same_bytes_with_an_alignment_of_its_own_too(file, tmp_path):
    write_gguf(tmp_path / "copy.gguf", read_gguf(file))
    assert (tmp_path / "copy.gguf").read_bytes() == file.read_bytes()
    aligned = GGUFContent("llama", {**VALUES, "general.alignment": Value(64, "UINT32")}, CONTENT.tensors)
    write_gguf(tmp_path / "aligned.gguf", aligned)
    assert np.array_equal(read_gguf(tmp_path / "aligned.gguf").tensors["m.weight"].load(), NUMBERS)


def test_a_file_that_is_there_is_not_overwritten(file):
    before = file.read_bytes()
    with pytest.raises(ExportError, match=r"exists. Give the name of a new file"):
        write_gguf(file, CONTENT)
    assert file.read_bytes() == before


def test_after_a_full_disk_or_a_broken_tensor_nothing_is_left(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken():
        raise ExportError("a weight cannot be stored")

    for load, message in ((full, "No space left.*Nothing was left there"), (broken, "a weight cannot be stored")):
        with pytest.raises(ExportError, match=message):
            write_gguf(tmp_path / "x.gguf", GGUFContent("llama", {}, {"m": Tensor("m", (3, 4), "F32", load)}))
    with pytest.raises(ExportError, match="Cannot write"):
        write_gguf(tmp_path / "no" / "folder.gguf", CONTENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 3, 20, 200])
def test_half_of_a_file_is_refused(file, size):
    content = file.read_bytes()
    file.write_bytes(content[:size])
    with pytest.raises(ExportError, match="cannot be read as GGUF"):
        read_gguf(file)


def test_hostile_lengths_are_refused(file):
    content = bytearray(file.read_bytes())
    for place in range(8, 24):  # the counts of tensors and values
        changed = content.copy()
        changed[place] ^= 0x7F
        file.write_bytes(changed)
        with pytest.raises(ExportError, match="cannot be read as GGUF"):
            read_gguf(file)


def test_other_files_are_refused(tmp_path, file):
    (tmp_path / "text.gguf").write_text("I am no model." * 9)
    for name in ("text.gguf", "missing.gguf"):
        with pytest.raises(ExportError, match="cannot be read as GGUF"):
            read_gguf(tmp_path / name)
    split = GGUFContent("llama", {"split.count": Value(3, "UINT16")}, {})
    write_gguf(tmp_path / "one-of-three.gguf", split)
    with pytest.raises(ExportError, match=r"one of 3 parts.*llama-gguf-split --merge"):
        read_gguf(tmp_path / "one-of-three.gguf")
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ExportError, match="big-endian"):
        read_gguf(tmp_path / "big.gguf")


def test_without_the_package_the_error_names_the_extra(monkeypatch, file):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"policy-patch\[serving\]"):
        read_gguf(file)
