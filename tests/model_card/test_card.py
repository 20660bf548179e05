"""Tests of `model_card.card`: the whole card, its code, values that mean harm, and cards that people edited.

The golden card is written anew by `POLICY_PATCH_WRITE_GOLDEN=1 python -m pytest tests/model_card/test_card.py`.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import EvaluationError
from policy_patch.model_card.card import PolicyPatchCardData, merge_card, model_card
from policy_patch.model_card.eval_results import eval_results_files, model_index_results
from policy_patch.report.report import EvaluationReport
from tests.evaluation.synthetic import FILTERING, JUDGING, synthetic_report
from tests.tiny_models import tiny_model, tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "model_card.md"
LEVELS = {"base": (0.7, 14.0), "teacher": (0.1, 9.0), "safe prompt": (0.6, 14.5), "SFT only": (0.4, 15.0)}
CONFIG = PolicyPatchConfig(
    num_virtual_tokens=6, hidden_size=32, risk="gender_bias", patch_version="1.2.0", sha256="0" * 64,
    base_model_name_or_path="acme/tiny_llama", base_model_revision="a" * 40, policy_patch_version="0.1.0",
    base_fingerprint={"tokenizer": "x"},
)  # fmt: skip
REPO = "acme/kind-patch"
HOSTILE = (
    "</td>`x` | **y** [z](http://z) {{7*7}}{% raw %}\n---\nlicense: evil\n\n# Title\n```\n"
    "<!-- policy-patch:end -->\"'\\"
)


def evaluation_of(report):
    """Return the parsed evaluation.json of a report, its figures replaced by ones that no package can change."""
    values = json.loads(report.to_json())
    for position, result in enumerate(values["systems"].values()):
        for metrics in [*result["metrics"].values(), result["fluency"]]:
            for column, metric in enumerate(metrics):
                value = 1 / (2 + position + column) + (10 if metric == "perplexity" else 0)
                metrics[metric] = {"value": value, "low": value - 0.05, "high": value + 0.05}
    return values


@pytest.fixture(scope="module")
def evaluation():
    """One evaluation for the file."""
    return evaluation_of(synthetic_report({**LEVELS, "patch": (0.2, 16.0)}, num=8))


def blocks(card, language):
    return [token.content for token in MarkdownIt().parse(card) if token.type == "fence" and token.info == language]


def metadata(card):
    return ModelCard(card).data.to_dict()


def shape(card):
    """Return what a card is made of as Markdown: the kinds of its parts in order, without their words."""
    body = card[card.index("<!-- policy-patch:begin") :]
    kinds = []
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        kinds.append((token.type, token.level, token.info))
        for child in token.children or []:
            if child.type not in ("text", "text_special") or kinds[-1] != "text":
                kinds.append("text" if child.type in ("text", "text_special") else (child.type, child.attrs))
    return kinds


# The card


def test_the_whole_card_is_as_agreed(evaluation):
    card = model_card(CONFIG, evaluation, repo_id=REPO, tags=["kindness"], license="apache-2.0")
    if os.environ.get("POLICY_PATCH_WRITE_GOLDEN"):
        GOLDEN.write_text(card, encoding="utf-8")
    assert card == GOLDEN.read_text(encoding="utf-8")


def test_the_metadata_is_what_the_hub_reads(evaluation, tmp_path):
    card = model_card(CONFIG, evaluation, repo_id=REPO, tags=["kindness", "safety"], license="apache-2.0")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    values = metadata_load(tmp_path / "README.md")
    assert {key: value for key, value in values.items() if key != "model-index"} == {
        "base_model": "acme/tiny_llama",
        "base_model_relation": "adapter",
        "library_name": "policy-patch",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["policy-patch", "safety", "gender-bias", "kindness"],
    }
    name, results = model_index_to_eval_results(values["model-index"])
    assert name == "kind-patch"
    figures = evaluation["systems"]["patch"]["metrics"]
    assert [(result.metric_type, result.metric_value) for result in results] == [
        *((metric, figure["value"]) for metric, figure in figures[JUDGING.name].items()),
        *((metric, figure["value"]) for metric, figure in figures[FILTERING.name].items()),
        ("perplexity", evaluation["systems"]["patch"]["fluency"]["perplexity"]["value"]),
    ]
    assert str(ModelCard(card)) == card, "the Hub's client writes it back as it was"


def test_every_figure_stands_with_its_interval(evaluation):
    card = model_card(CONFIG, evaluation, repo_id=REPO)
    for scorer in (JUDGING.name, FILTERING.name):
        table = card.split(f"### Scored by {scorer}")[1].split("\n\n- ")[0]
        for system, result in evaluation["systems"].items():
            figures = [*result["metrics"][scorer].values(), result["fluency"]["perplexity"]]
            cells = re.search(rf"^\| {system} \|(.*)\|$", table, re.MULTILINE)[1].split("|")
            for cell, figure in zip(cells, figures, strict=True):
                assert [float(number) for number in re.findall(r"[\d.]+", cell)] == pytest.approx(
                    [figure["value"], figure["low"], figure["high"]], abs=0.06 if figure["value"] > 9 else 0.0006
                )
    assert card.count("also filtered the training pairs") == 1
    assert card.index(FILTERING.name + "\n") < card.index("also filtered the training pairs")


def test_a_figure_that_is_not_defined_is_said_and_left_out_of_the_metadata(evaluation):
    values = json.loads(json.dumps(evaluation))
    values["systems"]["patch"]["fluency"]["perplexity"] = {"value": None, "low": None, "high": None}
    values["systems"]["patch"]["metrics"][JUDGING.name]["toxic_rate"].update(low=None, high=None)
    card = model_card(CONFIG, values, repo_id=REPO)
    assert re.search(r"^\| patch .* \| n/a \|$", card, re.MULTILINE) and "0.143 [n/a, n/a]" in card
    _, results = model_index_to_eval_results(metadata(card)["model-index"])
    assert len(results) == 6 and "perplexity" not in {result.metric_type for result in results}


def test_without_an_evaluation_the_card_says_so():
    card = model_card(CONFIG, None, repo_id=REPO)
    assert "**Not evaluated.**" in card and "Scored by" not in card
    assert "model-index" not in metadata(card) and "model_name" not in metadata(card)


def test_a_composed_patch_lists_its_parts(evaluation):
    parts = [
        {"name": "tox", "risk": "toxicity", "patch_version": "1.0.0", "num_virtual_tokens": 4, "sha256": "1" * 64},
        {"name": "bias", "risk": None, "patch_version": "0.3.0", "num_virtual_tokens": 2, "sha256": "2" * 64},
    ]
    card = model_card(replace(CONFIG, risk="toxicity+gender_bias", composed_from=parts), evaluation, repo_id=REPO)
    assert "| tox | toxicity | 1.0.0 | 4 |\n| bias | not named | 0.3.0 | 2 |\n" in card
    assert "start of training" not in card, "that is a fact about its parts"
    assert metadata(card)["tags"] == ["policy-patch", "safety", "toxicity", "gender-bias"]


@pytest.mark.parametrize("base", [None, "/models/mine", "./mine", "../mine", "lab:base", "C:\\models\\mine", "a/b/c"])
def test_a_base_that_is_not_on_the_hub_is_named_in_words_only(base):
    card = model_card(replace(CONFIG, base_model_name_or_path=base), None, repo_id=REPO)
    assert not {"base_model", "base_model_relation"} & set(metadata(card))
    assert (base or "a base that it does not name").replace("\\", "\\\\") in card
    assert "AutoPolicyPatchModel" not in card and "huggingface.co/" not in card


def test_a_folder_that_is_there_is_no_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert metadata(model_card(CONFIG, None))["base_model"] == "acme/tiny_llama"
    (tmp_path / "acme" / "tiny_llama").mkdir(parents=True)
    assert "base_model" not in metadata(model_card(CONFIG, None))


def test_the_miniatures_of_the_lab_are_called_miniatures(evaluation):
    config = replace(CONFIG, base_model_name_or_path="lab:base", base_model_revision=None)
    assert "lab's miniatures" in model_card(config, evaluation)
    assert "miniatures" not in model_card(CONFIG, evaluation)


def test_only_a_patch_with_a_fingerprint_claims_to_refuse_relatives():
    assert "is refused" in model_card(CONFIG, None)
    assert "is refused" not in model_card(replace(CONFIG, base_fingerprint=None), None)


def test_card_data_may_hold_more_and_keeps_it():
    data = PolicyPatchCardData(base_model="acme/m", language="en", datasets=["acme/d"], extra="x", tags=["a"])
    values = data.to_dict()
    assert values["language"] == "en" and values["datasets"] == ["acme/d"] and values["extra"] == "x"
    assert PolicyPatchCardData(**values).to_dict() == values


def test_importing_the_card_imports_neither_torch_nor_the_evaluation():
    code = (
        "import sys; from policy_patch.model_card import model_card, eval_results_files\n"
        "heavy = {'torch', 'transformers', 'scipy', 'sklearn', 'matplotlib', 'jinja2'}\n"
        "names = {name for name in sys.modules if name.startswith('policy_patch.evaluation')}\n"
        "print(names | heavy & set(sys.modules), 'policy_patch.report.report' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set() True\n"


def test_a_report_and_its_plain_values_make_the_same_card_and_results(evaluation):
    report = EvaluationReport.from_dict(evaluation)
    assert model_card(CONFIG, report, repo_id=REPO) == model_card(CONFIG, evaluation, repo_id=REPO)
    options = {"dataset_id": "acme/prompts", "repo_id": REPO}
    assert eval_results_files(CONFIG, report, **options) == eval_results_files(CONFIG, evaluation, **options)
    assert model_index_results(report) == model_index_results(evaluation)


def test_where_the_headline_should_rise_the_entry_says_so(evaluation):
    values = json.loads(json.dumps(evaluation))
    values["metrics"][0]["lower_is_better"] = False
    (content,) = eval_results_files(CONFIG, values, dataset_id="acme/prompts").values()
    assert "higher is better" in content.decode() and "lower is better" not in content.decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values.update(format_version=4),
            "`evaluation` has `format_version=4`; .* reads up to 3. Upgrade",
        ),
        (lambda values: values.pop("settings"), "`evaluation` lacks the key `settings`. It is not a complete report"),
        (lambda values: values["systems"]["patch"]["metrics"].clear(), "not a complete report"),
        (lambda values: values["systems"]["base"]["fluency"].update(perplexity={"value": "x"}), "a complete report"),
        (lambda values: values.update(environment=[]), "not a complete report"),
    ],
)
def test_what_is_no_report_is_refused(evaluation, change, message):
    values = json.loads(json.dumps(evaluation))
    change(values)
    with pytest.raises(EvaluationError, match=message):
        model_card(CONFIG, values)


# Its code


@pytest.mark.parametrize("revision", [None, "a" * 40])
def test_the_snippet_runs_as_it_stands(tmp_path, monkeypatch, capsys, revision):
    base = tiny_model()
    config = PolicyPatchConfig(
        init="random", num_virtual_tokens=4, base_model_name_or_path="acme/tiny_llama", base_model_revision=revision
    )
    get_policy_patch_model(base, config).save_pretrained(tmp_path / REPO)
    config = PolicyPatchConfig.from_json((tmp_path / REPO / "policy_patch_config.json").read_text())
    card = model_card(config, None, repo_id=REPO)
    base.save_pretrained(tmp_path / "acme" / "tiny_llama")
    tiny_tokenizer().save_pretrained(tmp_path / "acme" / "tiny_llama")
    monkeypatch.chdir(tmp_path)  # the ids are folders here
    names = {}
    exec(compile(blocks(card, "python")[0], "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("The weather today is")
    assert names["model"].patch_config["default"] == config
    exec(compile(blocks(card, "python")[1], "README.md", "exec"), names := {})
    assert names["model"].patch_config["default"] == config


def test_the_snippet_of_the_labs_base_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    from policy_patch.lab import load_lab_base

    config = PolicyPatchConfig(init="random", num_virtual_tokens=4, base_model_name_or_path="lab:base")
    get_policy_patch_model(load_lab_base(), config).save_pretrained(tmp_path / REPO)
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(model_card(config, None, repo_id=REPO), "python")[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("The weather today is")


@pytest.mark.parametrize("base", ["acme/tiny_llama", None, HOSTILE])
@pytest.mark.parametrize("repo_id", [REPO, None])
def test_commands_are_commands_and_code_is_code(base, repo_id):
    from policy_patch import cli

    card = model_card(replace(CONFIG, base_model_name_or_path=base), None, repo_id=repo_id)
    lines = [line for block in blocks(card, "sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("policy-patch ")]
    assert [cli.parse(command)[0] for command in commands] == ["generate"]
    for block in blocks(card, "python"):
        compile(block, "README.md", "exec")


def test_another_tokenizer_is_named_without_the_bases_revision():
    card = model_card(CONFIG, None, tokenizer_name="acme/words")
    assert 'AutoTokenizer.from_pretrained("acme/words")\n' in card
    assert f'AutoModelForCausalLM.from_pretrained("acme/tiny_llama", revision="{"a" * 40}")\n' in card


# Values that mean harm


def harmful(evaluation, text):
    """Return a card with `text` wherever a card shows a text that came from a file."""
    values = json.loads(json.dumps(evaluation).replace(json.dumps(JUDGING.name), json.dumps(text)))
    values.update(risk=text, judge=text, environment={text: text})
    values["settings"].update(safe_prompt=f"x{text}", prompts_sha256=text)
    values["systems"] = {text if name == "teacher" else name: result for name, result in values["systems"].items()}
    for result in values["systems"].values():
        result["model"] = text
    part = {"name": text, "risk": f"x{text}", "patch_version": f"1{text}", "num_virtual_tokens": 3}
    config = replace(
        CONFIG, risk=f"x{text}", init_text=f"x{text}", base_model_name_or_path=f"/{text}", sha256=f"x{text}",
        base_model_revision=f"x{text}", policy_patch_version=f"x{text}",
    )  # fmt: skip
    cards = [config, replace(config, composed_from=[part])]
    return [
        model_card(config, values, repo_id=f"acme/{text}", tags=[text], license=text, tokenizer_name=f"x{text}")
        for config in cards
    ]


def test_hostile_values_change_neither_structure_nor_metadata(evaluation):
    for card, harmless in zip(harmful(evaluation, HOSTILE), harmful(evaluation, "plain")):
        assert shape(card) == shape(harmless)
        assert "49" not in card.split("policy-patch:begin")[1].split("\n", 1)[1] and "7\\*7" in card
        assert list(metadata(card)) == list(metadata(harmless))
        assert metadata(card)["license"] == HOSTILE
        assert all(re.fullmatch(r"[\w.-]+", tag) for tag in metadata(card)["tags"][:3])
        assert merge_card(card, harmless) != card, "its own end mark is found, not that in a name"


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40))
def test_no_text_changes_the_structure_of_a_card(text):
    evaluation = evaluation_of(REPORT)
    for card, harmless in zip(harmful(evaluation, text), harmful(evaluation, "plain")):
        assert shape(card) == shape(harmless)
        assert set(metadata(card)) == set(metadata(harmless))
        for block in blocks(card, "python"):
            compile(block, "README.md", "exec")
        card.encode()


REPORT = synthetic_report({**LEVELS, "patch": (0.2, 16.0)}, num=8)


# Results for a leaderboard


def test_an_entry_for_a_benchmark_is_what_the_hub_reads(evaluation):
    options = {"dataset_id": "acme/rude_prompts", "dataset_revision": "b" * 40, "task_id": "toxicity", "repo_id": REPO}
    files = eval_results_files(CONFIG, evaluation, **options)
    assert list(files) == [".eval_results/acme--rude_prompts.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/acme--rude_prompts.yaml"]))
    figure = evaluation["systems"]["patch"]["metrics"][JUDGING.name]["average_maximum_toxicity"]
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("acme/rude_prompts", "toxicity", "b" * 40)
    assert entry.value == figure["value"] and entry.date is None and entry.verify_token is None
    assert entry.source_url == f"https://huggingface.co/{REPO}/blob/main/evaluation.json"
    for fact in (JUDGING.name, f"[{figure['low']:.3f}, {figure['high']:.3f}]", "8 prompts", "1.2.0", "lower is better"):
        assert fact in entry.notes
    assert "filtered the training pairs" not in entry.notes


def test_the_notes_of_an_entry_say_if_its_scorer_filtered(evaluation):
    values = {**evaluation, "scorers": evaluation["scorers"][::-1]}
    config = replace(CONFIG, base_model_name_or_path=HOSTILE)
    (content,) = eval_results_files(config, values, dataset_id="prompts").values()
    (entry,) = parse_eval_result_entries(yaml.safe_load(content))
    assert "filtered the training pairs" in entry.notes and "\n" not in entry.notes
    assert (entry.task_id, entry.source_url) == ("default", None)


def test_without_a_data_set_on_the_hub_no_entry_is_written(evaluation):
    assert eval_results_files(CONFIG, evaluation) == {}
    assert eval_results_files(CONFIG, None, dataset_id="acme/prompts") == {}
    assert metadata(model_card(CONFIG, evaluation))["model-index"][0]["results"][0]["dataset"] == {
        "name": "8 prompts, SHA-256 000000000000",
        "type": "prompts-not-on-the-hub",
    }
    named = metadata(model_card(CONFIG, evaluation, dataset_id="acme/prompts"))
    assert named["model-index"][0]["results"][0]["dataset"]["type"] == "acme/prompts"


def test_an_entry_needs_a_figure_of_the_patch(evaluation):
    values = json.loads(json.dumps(evaluation))
    values["systems"]["patch"]["metrics"][JUDGING.name]["average_maximum_toxicity"]["value"] = None
    assert eval_results_files(CONFIG, values, dataset_id="acme/prompts") == {}
    del values["systems"]["patch"]
    assert eval_results_files(CONFIG, values, dataset_id="acme/prompts") == {}
    assert "model-index" not in metadata(model_card(CONFIG, values))


@pytest.mark.parametrize("dataset_id", ["", "./prompts.txt", "a/b/c", "lab:toxicity/test", "a--b"])
def test_what_cannot_be_a_data_set_of_the_hub_is_refused(evaluation, dataset_id):
    for ask in (eval_results_files, model_card):
        with pytest.raises(EvaluationError, match=r"is no Hub id of a data set; expected a name such as 'org/prompts'"):
            ask(CONFIG, evaluation, dataset_id=dataset_id)


# Cards that people edited


@pytest.fixture
def cards(evaluation):
    """The card of a first version and of the next one."""
    first = model_card(CONFIG, evaluation, repo_id=REPO, tags=["kindness"])
    return first, model_card(replace(CONFIG, patch_version="1.3.0"), evaluation, repo_id=REPO)


def test_an_untouched_card_becomes_the_new_one(cards, evaluation):
    old, new = cards
    assert merge_card(old, new).replace("- kindness\n", "") == new
    assert merge_card(old, old) == old
    assert merge_card(new, new) == new


def test_what_people_added_around_the_block_stays(cards):
    old, new = cards
    old = (
        old.replace("\n<!-- policy-patch:begin", "\n# Mine\n\nHello  \n<!-- policy-patch:begin") + "\n## Thanks\n\tx \n"
    )
    merged = merge_card(old, new)
    assert "version of the patch | 1.3.0" in merged and "1.2.0" not in merged
    assert "\n# Mine\n\nHello  \n<!-- policy-patch:begin" in merged and merged.endswith("end -->\n\n## Thanks\n\tx \n")


def test_the_metadata_of_people_stays_with_its_comments(cards):
    old, new = cards
    front = (
        "# head\nlicense: mit  # asked legal\nbase_model: acme/older # old\nlibrary_name: policy-patch # ours\n\n"
        "# why\ntags: [kindness, mine]\ndate: 2026-01-02\nwidget:\n- text: |\n    # no comment\nmodel-index: []\n# tail"
    )
    body = old.split("\n---\n", 1)[1]
    merged = merge_card(f"---\n{front}\n---\n{body}", new)
    text = merged.split("---\n")[1]
    for kept in ("# head\nlicense: mit  # asked legal\n", "library_name: policy-patch # ours\n\n# why\n", "# tail\n"):
        assert kept in text
    assert "widget:\n- text: |\n    # no comment\n" in text and "date: 2026-01-02\n" in text
    values, wanted = metadata(merged), metadata(new)
    assert values["tags"] == ["kindness", "mine", "policy-patch", "safety", "gender-bias"]
    for key in ("base_model", "base_model_relation", "library_name", "pipeline_tag", "model-index"):
        assert values[key] == wanted[key]
    assert merge_card(merged, new) == merged


@pytest.mark.parametrize(
    "front",
    [
        "{license: mit, base_model: acme/older}",
        "license: mit\nbase_model: &base acme/older\nmine: *base",
        "license: mit\ntags: one",
        "license: mit\n? base_model\n: acme/older",
        "license: mit\nmine: .nan\nbase_model:\n  - acme/older",
        "license: mit\nmine: 'a\u2028b'\nbase_model: acme/older",
        "license: mit\nbase_model: acme/older\nbase_model: acme/oldest",
    ],
)
def test_metadata_in_any_style_is_renewed(cards, front):
    old, new = cards
    merged = merge_card(f"---\n{front}\n---\n" + old.split("\n---\n", 1)[1], new)
    before, after = yaml.safe_load(front), metadata(merged)
    assert after["base_model"] == "acme/tiny_llama" and after["license"] == "mit"
    assert repr(after.get("mine")) == repr(before.get("mine"))
    assert set(after["tags"]) >= {"policy-patch", "safety", "gender-bias"} | ({"one"} if "tags" in before else set())


def test_figures_of_an_earlier_evaluation_go_and_a_base_that_people_named_stays(cards):
    local = replace(CONFIG, base_model_name_or_path="/models/mine")
    merged = merge_card(cards[0], model_card(local, None, repo_id=REPO, license="mit"))
    values = metadata(merged)
    assert "model-index" not in values and "**Not evaluated.**" in merged
    assert values["base_model"] == "acme/tiny_llama" and values["license"] == "mit"


def test_a_card_without_metadata_gets_ours(cards):
    old, new = cards
    body = old.split("\n---\n", 1)[1].lstrip("\n")
    assert metadata(merge_card("Hello\n" + body, new)) == metadata(new)
    assert "---\n\nHello\n<!--" in merge_card("Hello\n" + body, new)


def test_an_edited_block_stays_as_it_is(cards):
    old, new = cards
    for edited in (
        old.replace("The weights of the base do not change", "No weights change"),
        old.replace("<!-- policy-patch:end -->", ""),
        re.sub("<!-- policy-patch:begin.*", "", old),
        re.sub("sha256=[0-9a-f]{64}", "sha256=" + "0" * 64, old),
        old + old[old.index("<!-- policy-patch:begin") :],
        "# Written by hand\n",
        "",
    ):
        assert merge_card(edited, new) is edited


@pytest.mark.parametrize("front", ["license: [mit", "- a\n- b", "text", "a: b: c", "date: 2026-13-01", "!!python/x y"])
def test_metadata_that_cannot_be_read_stays_as_it_is(cards, front):
    old, new = cards
    body = old.split("\n---\n", 1)[1]
    broken = f"---\n{front}\n---\n{body}"
    assert merge_card(broken, new) is broken
    unclosed = f"---\n{front}\n{body}"
    assert merge_card(unclosed, new) is unclosed


def test_metadata_end_at_a_rule_with_a_space_behind_it(cards):
    old, new = cards
    merged = merge_card(f"---\na: 1\n--- \nb: 2\n---\n{old.split(chr(10) + '---' + chr(10), 1)[1]}", new)
    assert metadata(merged)["a"] == 1 and "b" not in metadata(merged)
    assert "1.3.0" in merged


@pytest.mark.parametrize(
    "front",
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "\n".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)),
        "a: &a [*a]",
        "tags: &t {b: *t}",
        "a: " + "[" * 50_000,
        "a: " + "9" * 5_000,
        "a: " + ":".join(["1"] * 100_000),
        "a: [" + "x, " * 200_000 + "]",
        "a: 0x_",
    ],
    ids=["laughs", "itself", "itself in tags", "brackets", "digits", "sixties", "length", "no digits"],
)
def test_hostile_metadata_stays_as_it_is_at_once(cards, front):
    old, new = cards
    hostile = f"---\n{front}\n---\n" + old.split("\n---\n", 1)[1]
    start = time.monotonic()
    assert merge_card(hostile, new) is hostile
    assert time.monotonic() - start < 5


def test_line_endings_of_a_card_stay(cards):
    old, new = cards
    expected = merge_card(old + "mine\n", new)
    merged = merge_card((old + "mine\n").replace("\n", "\r\n"), new)
    assert merged == expected.replace("\n", "\r\n")
    assert merge_card("\ufeff" + old + "mine\n", new) == "\ufeff" + expected


def test_the_hash_of_the_block_is_what_it_says(cards):
    begin, body = re.search(r"begin sha256=(\w+) -->(.*)<!-- policy-patch:end -->", cards[0], re.DOTALL).groups()
    assert hashlib.sha256(body.encode()).hexdigest() == begin
