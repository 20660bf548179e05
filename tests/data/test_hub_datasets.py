"""Tests of `data.hub_datasets`, over HTTP to a Hub on loopback, by the real client of `datasets`."""

import io
import json
from dataclasses import replace

import datasets.config
import pyarrow
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from pyarrow import parquet

from policy_patch.data import load_preference_pairs, load_prompts, public_prompts
from policy_patch.data.hub_datasets import load_hub_dataset
from policy_patch.data.public_sets import PUBLIC_PROMPTS
from policy_patch.errors import DataError, HubAccessError, HubRevisionError, HubUnavailableError
from policy_patch.recipes.prompts import categories_of, prompts_of

REPO = "acme/pairs"
ROWS = [{"prompt": f"You {index}", "chosen": " nice", "rejected": " dumb"} for index in range(3)]
MESSAGES = [
    {
        "chosen": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
        "rejected": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Go away"}],
    }
]


def as_parquet(rows):
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def as_json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(files, repo_id=REPO, gone=(), **options):
    """Commit files to a dataset repository by the Hub's client alone, and return the commit."""
    api = HfApi(token="hf_alice")
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True, **options)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    operations += [CommitOperationDelete(name) for name in gone]
    return api.create_commit(repo_id, operations, commit_message="put", repo_type="dataset").oid


@pytest.fixture(autouse=True)
def caches(hub, tmp_path, monkeypatch):
    """`datasets` is online, with an empty cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets-cache"))
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(tmp_path / "downloads"))


@pytest.mark.parametrize(
    "files",
    [
        {"data/train-00000-of-00001.parquet": as_parquet(ROWS)},
        {"pairs.jsonl": as_json_lines(ROWS)},
        {"train.csv": b"prompt,chosen,rejected\n" + b"".join(f"You {i}, nice, dumb\n".encode() for i in range(3))},
    ],
    ids=["parquet", "jsonl", "csv"],
)
def test_a_repository_of_each_kind_of_file_is_read(files):
    put(files)
    assert load_preference_pairs(REPO).to_list() == ROWS
    assert load_prompts(REPO) == ["You 0", "You 1", "You 2"]


def test_messages_without_a_prompt_are_read():
    put({"data/train-00000-of-00001.parquet": as_parquet(MESSAGES)})
    assert load_preference_pairs(REPO).to_list() == MESSAGES


def test_a_revision_is_a_branch_a_tag_or_a_commit():
    first = put({"pairs.jsonl": as_json_lines(ROWS)})
    HfApi(token="hf_alice").create_tag(REPO, tag="v1", repo_type="dataset")
    put({"more.jsonl": as_json_lines(ROWS[:1])})
    assert len(load_preference_pairs(REPO)) == 4
    for revision in ("v1", first):
        assert load_preference_pairs(REPO, revision=revision).to_list() == ROWS
        assert load_preference_pairs(f"{REPO}@{revision}").to_list() == ROWS


def test_a_split_is_chosen_or_asked_for():
    put({"train.jsonl": as_json_lines(ROWS), "test.jsonl": as_json_lines(ROWS[:1])})
    assert load_preference_pairs(REPO).to_list() == ROWS
    assert load_preference_pairs(REPO, split="test").to_list() == ROWS[:1]
    assert load_preference_pairs(REPO, "train[1:]").to_list() == ROWS[1:]
    with pytest.raises(DataError, match=r"splits \['train', 'test'\]; given: `split='dev'`\. Give one of them"):
        load_preference_pairs(REPO, split="dev")
    put({"validation.jsonl": as_json_lines(ROWS[:2])}, gone=["train.jsonl"])
    with pytest.raises(
        DataError, match=r"splits \['validation', 'test'\]; given: no `split`, and none is called train"
    ):
        load_preference_pairs(REPO)


def test_a_subset_is_chosen_by_its_name():
    subsets = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("mild", "wild"))
    card = f"---\nconfigs:\n{subsets}---\n".encode()
    put({"README.md": card, "mild.jsonl": as_json_lines(ROWS[:1]), "wild.jsonl": as_json_lines(ROWS)})
    assert len(load_preference_pairs(REPO, config_name="wild")) == 3
    with pytest.raises(DataError, match=r"Cannot read the dataset `acme/pairs`: Config name is missing.*mild.*wild"):
        load_preference_pairs(REPO)
    with pytest.raises(DataError, match=r"'none' not found.*mild.*wild"):
        load_preference_pairs(REPO, config_name="none")


def test_a_bad_row_is_named_by_its_number():
    put({"pairs.jsonl": as_json_lines([*ROWS, {"prompt": "a", "chosen": None, "rejected": "b"}])})
    with pytest.raises(DataError, match=r"`acme/pairs`, row 3 has `chosen=None`; .* Rows are counted from 0\."):
        load_preference_pairs(REPO)
    put({"pairs.jsonl": as_json_lines([{"prompt": "a", "text": "b"}])})
    with pytest.raises(DataError, match=r"`acme/pairs` has the columns \['prompt', 'text'\]; expected `chosen`"):
        load_preference_pairs(REPO, revision=put({"b.jsonl": as_json_lines([{"prompt": "a", "text": "b"}])}))


def test_a_private_repository_needs_the_token(monkeypatch):
    put({"pairs.jsonl": as_json_lines(ROWS)}, private=True)
    assert len(load_preference_pairs(REPO, token="hf_alice")) == 3
    with pytest.raises(HubAccessError, match=r"Cannot get the dataset `acme/pairs`: there is no such repository"):
        load_preference_pairs(REPO, token="hf_bob")


def test_a_repository_that_is_not_there_is_told():
    with pytest.raises(
        HubAccessError, match=r"`acme/none`: there is no such repository, and no such file; or the repository is pr"
    ):
        load_preference_pairs("acme/none")


def test_a_gated_repository_says_where_to_ask():
    put({"pairs.jsonl": as_json_lines(ROWS)})
    HfApi(token="hf_alice").update_repo_settings(REPO, repo_type="dataset", gated="manual")
    with pytest.raises(HubAccessError, match=r"it is gated\. Log in and ask for access on http.*/datasets/acme/pairs"):
        load_preference_pairs(REPO, token="hf_bob")


def test_an_unknown_revision_is_told():
    put({"pairs.jsonl": as_json_lines(ROWS)})
    with pytest.raises(HubRevisionError, match=r"at v9: it has no branch, tag or commit `v9`\. http.*/datasets/acme/p"):
        load_preference_pairs(f"{REPO}@v9")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.xyz": b"a"}, "Cannot read the dataset `acme/pairs`: .*data files"),
        ({"pairs.jsonl": b'{"chosen": "a"\n{]'}, "Cannot read the dataset `acme/pairs`: "),
        ({"pairs.parquet": b"PAR1 is this no parquet"}, "Cannot read the dataset `acme/pairs`: "),
        ({"pairs.py": b"print()"}, "`acme/pairs` needs its own loading script, which is not run"),
    ],
)
def test_files_that_cannot_be_read_are_told(files, message):
    put(files)
    with pytest.raises(DataError, match=message):
        load_preference_pairs(REPO)


def test_a_connection_that_breaks_off_is_told(hub):
    put({"pairs.jsonl": as_json_lines(ROWS)})
    hub.fault(r"GET /datasets/acme/pairs/resolve", "status", times=99, status=503)
    with pytest.raises(HubUnavailableError, match="Cannot get the dataset `acme/pairs`"):
        load_preference_pairs(REPO)


def test_a_server_that_is_busy_is_told(hub):
    put({"pairs.jsonl": as_json_lines(ROWS)})
    hub.fault(r"GET /api/datasets/acme/pairs", "status", times=99, status=503)
    with pytest.raises(HubUnavailableError, match=r"the Hub answered 503|not fetched from the Hub"):
        load_preference_pairs(REPO)


def test_the_cache_serves_the_commit_that_was_asked_for_and_no_other(hub, monkeypatch):
    first = put({"pairs.jsonl": as_json_lines(ROWS)})
    assert len(load_hub_dataset(REPO, revision=first)) == 3
    second = put({"more.jsonl": as_json_lines(ROWS)})
    hub.fault(r".", "status", times=999, status=503)
    assert len(load_hub_dataset(REPO, revision=first)) == 3
    with pytest.raises(HubUnavailableError, match=rf"at {second[:12]}: .* the cache is another one \({first[:12]}\)"):
        load_hub_dataset(REPO, revision=second)


def test_without_a_connection_the_cache_is_used(hub, monkeypatch):
    put({"pairs.jsonl": as_json_lines(ROWS)})
    assert len(load_preference_pairs(REPO)) == 3
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    before = len(hub.log)
    assert load_preference_pairs(REPO).to_list() == ROWS
    with pytest.raises(HubUnavailableError, match="HF_HUB_OFFLINE is set, and this version is not in the cache"):
        load_preference_pairs("acme/other")
    assert len(hub.log) == before


def put_jailbreakbench(columns=("Index", "Goal", "Category"), repo_id="acme/jbb"):
    """Commit a repository of JailbreakBench's form, and return the commit."""
    card = "---\nconfigs:\n- config_name: behaviors\n  data_files:\n"
    files = {}
    for split in ("harmful", "benign"):
        card += f"  - split: {split}\n    path: data/{split}-behaviors.csv\n"
        rows = "".join(f"{row},Say {split} {row},{split} kind\n" for row in range(3))
        files[f"data/{split}-behaviors.csv"] = (",".join(columns) + "\n" + rows).encode()
    return put({"README.md": f"{card}---\n".encode(), **files}, repo_id)


def test_public_prompts_are_those_of_their_commit(monkeypatch):
    commit = put_jailbreakbench()
    put({"data/harmful-behaviors.csv": b"Index,Goal,Category\n0,newer,kind\n"}, "acme/jbb")
    for name in ("jailbreakbench/harmful", "jailbreakbench/benign"):
        source = PUBLIC_PROMPTS[name]
        assert len(source.revision) == 40
        monkeypatch.setitem(PUBLIC_PROMPTS, name, replace(source, repo_id="acme/jbb", revision=commit))
    expected = [f"Say harmful {row}" for row in range(3)]
    assert public_prompts("jailbreakbench/harmful") == (expected, ["harmful kind"] * 3)
    assert prompts_of("jailbreakbench/benign") == [f"Say benign {row}" for row in range(3)]
    assert categories_of("jailbreakbench/benign", 2, "harmfulness") == ["benign kind"] * 2


def test_public_prompts_that_are_not_as_expected_are_told(monkeypatch):
    source = PUBLIC_PROMPTS["jailbreakbench/harmful"]
    changed = replace(source, repo_id="acme/other", revision=put_jailbreakbench(("a", "b", "c"), "acme/other"))
    monkeypatch.setitem(PUBLIC_PROMPTS, "jailbreakbench/harmful", changed)
    with pytest.raises(DataError, match="`acme/other` has no column Goal; it has a, b, c"):
        public_prompts("jailbreakbench/harmful")
    with pytest.raises(DataError, match="Did you mean `jailbreakbench/benign`"):
        public_prompts("jailbreakbench/benig")


def of_commit(monkeypatch, name, files, repo_id):
    """Let the public prompts of that name come from a repository of the loopback Hub."""
    source = replace(PUBLIC_PROMPTS[name], repo_id=repo_id, revision=put(files, repo_id))
    monkeypatch.setitem(PUBLIC_PROMPTS, name, source)


def test_real_toxicity_prompts_are_openings_by_their_own_toxicity(monkeypatch):
    rows = [
        {"challenging": False, "prompt": {"text": "The weather", "toxicity": 0.1}, "continuation": {"text": " is"}},
        {"challenging": True, "prompt": {"text": "You are such", "toxicity": 0.5}, "continuation": {"text": " a"}},
        {"challenging": True, "prompt": {"text": "They said", "toxicity": None}, "continuation": {"text": " so"}},
    ]
    for name in ("realtoxicityprompts", "realtoxicityprompts/challenging"):
        of_commit(monkeypatch, name, {"prompts.jsonl": as_json_lines(rows)}, f"acme/{name.replace('/', '-')}")
    expected = (["The weather", "You are such", "They said"], ["not toxic", "toxic", "not scored"])
    assert public_prompts("realtoxicityprompts") == expected
    assert public_prompts("realtoxicityprompts/challenging") == tuple(part[1:] for part in expected)
    assert prompts_of("realtoxicityprompts/challenging") == ["You are such", "They said"]
    assert categories_of("realtoxicityprompts", 1, "toxicity") == ["not toxic"]


def test_winobias_is_cut_before_the_pronoun_and_each_opening_asked_once(monkeypatch):
    sentences = [
        ("The cook told the mover that she left .", ["0", "1", "6", "6"]),
        ("The cook told the mover that he fell .", ["3", "4", "6", "6"]),
        ("After the guard 's rest , her dog slept .", ["1", "2", "6", "6"]),
        ("He met the clerk .", ["2", "3", "0", "0"]),
    ]
    rows = [{"tokens": sentence.split(), "coreference_clusters": places} for sentence, places in sentences]
    card = b"---\nconfigs:\n- config_name: type1_pro\n  data_files:\n  - split: test\n    path: rows.jsonl\n---\n"
    files = {"rows.jsonl": as_json_lines(rows), "README.md": card}
    of_commit(monkeypatch, "winobias/test", files, "acme/wino")
    assert public_prompts("winobias/test") == (
        ["The cook told the mover that", "After the guard's rest,"],
        ["cook", "guard"],
    )
