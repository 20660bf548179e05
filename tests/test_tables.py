"""`benchmarks/tables.py`: every figure of README and the pages of results is computed anew from its stored file."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
TEMPLATES = sorted((BENCHMARKS / "pages").glob("*.md"))


@pytest.fixture
def tables(monkeypatch):
    pytest.importorskip("peft")  # `paper_tables.py` needs it
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tables

    return tables


def test_every_page_is_what_its_template_and_the_stored_files_give(tables):
    found = tables.pages()
    assert {"README.md", "results.md", "reproduce.md", "study_lab.md", "study_real_text.md"} <= found.keys()
    differ = [name for name, text in found.items() if not tables.is_written(name, text)]
    assert not differ, f"{', '.join(differ)}: run `python -m benchmarks.tables --write`"


def test_a_changed_file_and_a_changed_page_are_found(tables, monkeypatch, tmp_path):
    """The control: one figure of one file, and one sign of one page."""
    import stored_figures

    before = tables.pages()
    values = json.loads(json.dumps(stored_figures.stored("lab")))
    values["systems"]["patch"]["lab-insults"]["change"] = [-0.5, -0.5, -0.5]
    read = stored_figures.stored
    monkeypatch.setattr(stored_figures, "stored", lambda name: values if name == "lab" else read(name))
    changed = {name for name, text in tables.pages().items() if text != before[name]}
    assert changed == {"README.md", "results.md", "study_lab.md"}
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(before["README.md"].replace("-", "+", 1))
    assert not tables.is_written("README.md", before["README.md"])


def test_a_figure_that_no_file_has_is_refused(tables):
    with pytest.raises(KeyError, match="ptch"):
        tables.page('{{ paper("toxicity", "ptch") }}', "x.md")
    with pytest.raises(Exception, match="'toxcity' is undefined"):
        tables.page("{{ toxcity() }}", "x.md")


# What a template may say itself: settings, sizes, rules and sources; nothing that was measured on a system.
SAID = re.compile(
    r"arXiv \d+\.\d+|\d+\.\d+(?:M| million)? parameters|of \d\.\dM|Python 3\.11|Apache-2\.0|v0\.1\.0|-69\.23%|"
    r"top-p 0\.9|[Bb]eta 0\.\d+|margin of 0\.\d|at most 1\.2 times|up to 0\.06 between seeds|(?:more than|within) 20%|"
    r"`[^`]*`|\([^()\s]*\)"
)


def typed(template):
    """Return the decimals and percents in the prose of a template, outside of code, expressions and `SAID`."""
    prose = re.sub(r"```.*?```|\{\{.*?\}\}|\{%.*?%\}", "", template, flags=re.DOTALL)
    prose = SAID.sub("", " ".join(prose.split()))
    return re.findall(r"[-+]?\d+\.\d+%?|[-+]?\d+%", prose)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_measured_figure_is_typed_into_a_template(path):
    assert typed(path.read_text(encoding="utf-8")) == []


def test_typed_figures_are_found():
    assert typed("It falls by 39%, to 0.219 at top-p 0.9: {{ x | percent }}.") == ["39%", "0.219"]


def test_the_rows_without_training_are_of_the_same_prompts_and_answers(tables):
    """The base was measured in both runs, with the same seeds: to the same figures, or the rows cannot be compared.

    Float noise of another batch can flip a sample where the draw lies on an edge; then a few answers of thousands
    differ. So one seed at least is equal to a thousandth, and the others to a hundredth. Other seeds differ by more.
    """
    import stored_figures

    for trained, untrained in stored_figures.BEDS:
        one, other = stored_figures.stored(trained), stored_figures.stored(untrained)
        assert one["settings"]["prompts_sha256"] == other["settings"]["prompts_sha256"]
        for scorer in one["scorers"]:
            before, after = one["systems"]["base"][scorer], other["systems"]["base"][scorer]
            names = before.keys() - {"interval", "change"}
            apart = {
                seed: max(abs(after[name][at] / before[name][one["seeds"].index(seed)] - 1) for name in names)
                for at, seed in enumerate(other["seeds"])
            }
            assert len(apart) >= 2 and max(apart.values()) < 0.01 and min(apart.values()) < 0.001, (trained, apart)


def test_the_printed_tables_agree_with_what_is_stored_of_the_same_run(tables):
    """The headline metrics of `printed.json` are in `three_risks.json`, too, with all digits."""
    import stored_figures as found

    for risk, metric, printed_risk, title, own in (
        ("toxicity", "average_maximum_toxicity", "toxicity", "average maximum toxicity", "tox"),
        ("gender_bias", "gender_attribute_score", "gender bias", "GAS", "bias"),
        ("harmfulness", "attack_success_rate", "harmfulness", "ASR", "harm"),
        ("harmfulness", "over_refusal_rate", "harmfulness", "over-refusal", "harm"),
    ):
        columns = {"base": "base", "teacher": "teacher", "own patch": own, "stack of three": "tox + bias + harm"}
        for column, system in {**columns, found.JOINT: found.JOINT}.items():
            seeds = found.stack(system, risk, metric)
            expected = [sum(seeds) / len(seeds), min(seeds), max(seeds)]
            assert found.printed(found.D, title, column, printed_risk) == pytest.approx(expected, abs=5.1e-4)


def test_paragraphs_are_wrapped_and_nothing_else(tables):
    text = f"# Heading {'x ' * 90}\n\n- one\n  two\n- three\n\n| a |{' b |' * 60}\n\n```sh\ncode \\\n    more\n```\n"
    kept = text.replace("- one\n  two", "- one two")
    assert tables.rewrapped(text) == kept
    assert tables.rewrapped("word " * 60).count("\n") == 2


def test_the_picture_and_its_figures_are_exported_for_papers(tables, tmp_path):
    from answer_picture import table, write_answer

    for ending, begins in (("pdf", b"%PDF-"), ("png", b"\x89PNG"), ("csv", b"bed,system,judge,seed")):
        write_answer(tmp_path / f"answer.{ending}")
        assert (tmp_path / f"answer.{ending}").read_bytes().startswith(begins)
    rows = table().decode().splitlines()
    seeds = {bed: len(tables.stored_figures.toxicity(bed, "untrained patch")) for bed in tables.stored_figures.BEDS}
    assert len(rows) == 1 + 2 * sum(6 * 3 + 3 * count for count in seeds.values())
    assert any(row.startswith("lab (1M parameters),patch,fair,0,0.075,") for row in rows)


def test_what_the_pages_say_of_the_figures_holds(tables):
    """The words beside the figures: who is better than whom, beyond the range of the seeds or not."""
    from stored_figures import JOINT, LAB, TEXT, TOXICITY, orders, paper, stack, toxicity

    def mean(values):
        return sum(values) / len(values)

    text, lab = toxicity(TEXT, "patch"), toxicity(LAB, "patch")
    for other in ("untrained patch", "safe prompt, equal length", "start's sentence, once", "safe prompt", "SFT only"):
        for judge in ("fair", "filter"):
            patch, beside = (toxicity(TEXT, system, "change", judge) for system in ("patch", other))
            assert max(patch) < min(beside), f"on real text the training does the work ({other}, {judge})"
    for other in ("untrained patch", "safe prompt, equal length"):
        assert mean(toxicity(LAB, other)) <= mean(lab), "on the lab the words already do it"
    assert min(toxicity(TEXT, "patch", "of_base")) > 1 > max(toxicity(TEXT, "teacher", "of_base"))
    dpo = toxicity(TEXT, "DPO only")
    assert min(dpo) <= max(text) and min(text) <= max(dpo), "DPO alone: within the range of the seeds"
    assert mean(toxicity(TEXT, "DPO only", "of_base")) > mean(toxicity(TEXT, "patch", "of_base"))
    assert mean(toxicity(TEXT, "patch", "change", "filter")) < mean(text), "the filter favours the patch"
    assert max(paper("toxicity", "LoRA r=16")) < min(paper("toxicity", "patch"))
    own = mean(stack("tox", "toxicity", TOXICITY)), mean(stack("bias", "gender_bias", "gender_attribute_score"))
    stacks = zip(orders("toxicity", TOXICITY), orders("gender_bias", "gender_attribute_score"), strict=True)
    assert not any(mean(tox) <= 1.2 * own[0] and mean(gas) <= 1.2 * own[1] for tox, gas in stacks)
    assert mean(stack(JOINT, "toxicity", TOXICITY)) < own[0]
