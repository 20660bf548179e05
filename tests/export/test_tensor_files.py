"""Tests of reading and writing safetensors files piece by piece; the safetensors package is the judge."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from policy_patch.errors import ExportError
from policy_patch.export import tensor_files
from policy_patch.export.tensor_files import read_tensors, row_bytes, write_tensors


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16])
def stored(request, tmp_path):
    tensors = {
        "table": torch.randn(10, 4).to(request.param),
        "other": torch.arange(6, dtype=torch.int64).view(2, 3),
        "empty": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "in.safetensors", {"format": "pt"})
    return tensors, tmp_path / "in.safetensors"


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_rows_are_exchanged_and_added_and_all_else_is_kept(stored, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_CHUNK", chunk)
    tensors, path = stored
    read, metadata = read_tensors(path)
    assert metadata == {"format": "pt"}
    table = read["table"]
    new = {one: torch.full((4,), float(one)) for one in (0, 3, 4, 9, 10, 11)}
    rows = {one: row_bytes(row, table.dtype) for one, row in new.items()}
    write_tensors(
        tmp_path / "out", [table.with_rows(rows), read["other"], table.with_rows({}, name="copy"), read["empty"]], {}
    )
    found = load_file(tmp_path / "out")
    expected = torch.cat([tensors["table"], torch.zeros(2, 4, dtype=tensors["table"].dtype)])
    for one, row in new.items():
        expected[one] = row
    assert torch.equal(found["table"], expected) and torch.equal(found["copy"], tensors["table"])
    assert torch.equal(found["other"], tensors["other"]) and found["empty"].shape == (0, 4)


def test_blocks_of_rows_make_the_whole(stored, monkeypatch):
    monkeypatch.setattr(tensor_files, "_CHUNK", 20)
    tensors, path = stored
    blocks = list(read_tensors(path)[0]["table"].row_blocks())
    assert len(blocks) > 1 and torch.equal(torch.cat(blocks), tensors["table"])


def test_an_existing_file_is_not_written_to(stored, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "out", [], {})


def test_a_vector_too_large_for_the_type_is_refused():
    with pytest.raises(ExportError, match="not finite in F16"):
        row_bytes(torch.tensor([1e6]), "F16")


@pytest.mark.parametrize("damage", [lambda c: c[:-3], lambda c: c[:20], lambda c: b"", lambda c: b"\xff" * 8 + c[8:]])
def test_damaged_files_are_refused(stored, damage):
    _, path = stored
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ExportError, match="cannot be read as a safetensors file"):
        read_tensors(path)


def test_a_file_that_shrinks_while_it_is_copied_is_refused(stored, tmp_path):
    _, path = stored
    read, _ = read_tensors(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ExportError, match="became shorter"):
        write_tensors(tmp_path / "out", list(read.values()), {})
