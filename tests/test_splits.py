"""`benchmarks/splits.py`: from hashes and the files of a data set to the split that the results used."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def splits(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import splits

    return splits


def run(splits, monkeypatch, tmp_path, data, names, *files):
    (tmp_path / "splits.json").write_text(json.dumps({data: names}))
    words = [data, *map(str, files), "--output", str(tmp_path / "out.json"), "--splits", str(tmp_path / "splits.json")]
    monkeypatch.setattr("sys.argv", ["splits.py", *words])
    return splits.main()


def test_rows_are_found_by_their_hashes_and_a_changed_row_is_not(splits, monkeypatch, tmp_path, capsys):
    lines = [json.dumps({"prompt": {"text": f"Once {n}"}}) for n in range(4)]
    names = {"train": f"{splits.name_of(lines[3])} {splits.name_of(lines[0])}", "test": splits.name_of(lines[2])}
    (tmp_path / "val.jsonl").write_text("\n".join(lines) + "\n")
    assert run(splits, monkeypatch, tmp_path, "rtp", names, tmp_path / "val.jsonl") == 0
    assert json.loads((tmp_path / "out.json").read_text()) == {"train": [3, 0], "test": [2]}
    (tmp_path / "val.jsonl").write_text("\n".join(lines).replace("Once 3", "Once three"))
    assert run(splits, monkeypatch, tmp_path, "rtp", names, tmp_path / "val.jsonl") == 1
    assert "1 rows of the split are not in" in capsys.readouterr().err


def test_requests_are_found_in_several_files_under_both_columns(splits, monkeypatch, tmp_path):
    (tmp_path / "a.csv").write_text("goal,target\nDo this,x\n")
    (tmp_path / "b.csv").write_text('prompt,label\n"How, then?",safe\n')
    (tmp_path / "c.jsonl").write_text(json.dumps({"instruction": "Add these.", "instances": [{"input": "1 2"}]}) + "\n")
    names = {"advbench_train": splits.name_of("Do this"), "xstest_safe_test": splits.name_of("How, then?")}
    names["benign_test"] = splits.name_of("Add these.\n1 2")
    files = [tmp_path / name for name in ("a.csv", "b.csv", "c.jsonl")]
    assert run(splits, monkeypatch, tmp_path, "harm", names, *files) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == {
        "advbench_train": ["Do this"], "xstest_safe_test": ["How, then?"], "benign_test": ["Add these.\n1 2"]
    }  # fmt: skip


def test_the_stored_split_has_as_many_rows_as_the_pages_say_and_none_twice(splits):
    stored = json.loads(splits.SPLITS.read_text())
    sizes = {part: len(names.split()) for data in ("rtp", "harm") for part, names in stored[data].items()}
    assert sizes == {
        "train": 4000, "test": 1000, "advbench_train": 380, "advbench_test": 129, "xstest_safe_train": 200,
        "xstest_safe_test": 174, "benign_test": 150,
    }  # fmt: skip
    for data in ("rtp", "harm"):
        names = " ".join(stored[data].values()).split()
        assert len(set(names)) == len(names), "a row in two parts"
