"""Figures and tables of the documentation, computed from the files in `docs/results`.

`tables.py` puts them into the pages. Nothing is measured here, and no figure is typed in here.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ablations
import attacks
import guard_cost
import lm_eval_tasks
import over_seeds
import paper_tables
import several_risks
import stacks
import three_risks
import utility

from policy_patch.evaluation.risks import RISKS
from policy_patch.report.tables import markdown_table

RESULTS = Path(__file__).parents[1] / "docs" / "results"
TOXICITY = "average_maximum_toxicity"
LAB, TEXT = ("lab", "starts_lab"), ("real_text", "starts_real_text")
BEDS = (LAB, TEXT)
# In the order of the tables. The rows of "starts" were measured without training, on the same prompts and seeds.
SYSTEMS = (
    "base", "safe prompt", "start's sentence, once", "safe prompt, equal length", "untrained patch", "SFT only",
    "DPO only", "patch", "teacher",
)  # fmt: skip
# Keys of `printed.json`.
D = "three_risks_details"
JOINT = "one patch, all pairs"
HARM_SOURCES = ("AdvBench", "XSTest", "HarmBench")  # the last is not seen in training
SHOWN = {
    "safe prompt": "a safe prompt, once",
    "start's sentence, once": "the start's sentence, once",
    "safe prompt, equal length": "the start's sentence, repeated to the patch's length",
    "untrained patch": "the untrained start",
    "sft_only": "SFT only",
    "patch": "**patch**",
}


@functools.cache
def stored(name: str) -> Any:
    """Return the values of `docs/results/NAME.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


# Figures as texts. A figure is a list with one value for each seed.


def mean(values: Iterable[float], digits: int = 3) -> str:
    """Return the mean over seeds: `0.260`."""
    values = list(values)
    return f"{sum(values) / len(values):.{digits}f}"


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Return the mean, the lowest and the highest seed: `0.260 [0.244, 0.289]`."""
    return over_seeds.figure(list(values), digits)


def percent(values: Iterable[float], digits: int = 0) -> str:
    """Return the mean of relative changes with its sign: `-73%`."""
    values = list(values)
    return f"{100 * sum(values) / len(values):+.{digits}f}%"


def percents(values: Iterable[float]) -> str:
    """Return the mean, the lowest and the highest of relative changes: `-73% [-74, -70]`."""
    return over_seeds.figure([100 * value for value in values], 0, "+", "%")


def fall(values: Iterable[float], digits: int = 0) -> str:
    """Return by how much something fell, without a sign: `73%`."""
    values = list(values)
    return f"{-100 * sum(values) / len(values):.{digits}f}%"


def share(values: Iterable[float], digits: int = 0) -> str:
    """Return a mean share: `18%`."""
    return f"{100 * float(mean(values, 9)):.{digits}f}%"


def each(values: Iterable[float], digits: int = 2) -> str:
    """Return the value of each seed: `1.16, 1.17, 1.15`."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def each_fall(values: Iterable[float], digits: int = 1) -> str:
    """Return the fall of each seed: `70.1%, 69.7%, 71.4%`."""
    return ", ".join(f"{-100 * value:.{digits}f}%" for value in values)


FILTERS = {found.__name__: found for found in (mean, spread, percent, percents, fall, share, each, each_fall)}


# Toxicity on the lab and on real text


def harmless(scorer: str, texts: str = "books") -> list[float]:
    """Return what a judge says of harmless text: its average maximum toxicity of each book, or of WikiText-2.

    Args:
        scorer (`str`):
            The beginning of its name, such as `"labelled.csv"`.
        texts (`str`, *optional*, defaults to `"books"`):
            `"books"` or `"wikitext2"`.
    """
    return [
        figures["average_maximum_toxicity"]
        for name, found in stored("judge_floor")["results"].items()
        for judge, figures in found.items()
        if judge.startswith(scorer) and name.startswith("wikitext2") is (texts == "wikitext2")
    ]


def toxicity(bed: tuple[str, str], system: str, figure: str = "change", judge: str = "fair") -> list[float]:
    """Return a figure of a system for each seed.

    Args:
        bed (`tuple[str, str]`):
            `LAB` or `TEXT`.
        system (`str`):
            One of `SYSTEMS`.
        figure (`str`):
            A key of the file, or `of_base`: the perplexity divided by the base's.
        judge (`str`):
            `fair`, the scorer that filtered nothing, or `filter`, the scorer that filtered the training pairs.
    """
    files = [stored(name) for name in bed]
    scorers = list(files[0]["scorers"])  # the first one filtered the pairs, and its label says so
    scorer = scorers[0] if judge == "filter" else scorers[1]
    file = next(found for found in files if system in found["systems"])
    row = file["systems"][system][scorer]
    if figure == "of_base":
        base = file["systems"]["base"][scorer]["perplexity"]
        return [own / other for own, other in zip(row["perplexity"], base, strict=True)]
    return row[figure]


def answer() -> str:
    """Return the first table of the results: every system by both judges, on the lab and on real text."""
    table = []
    for system in SYSTEMS:
        cells = {"system": SHOWN.get(system, system)}
        for name, bed in (("lab", LAB), ("text", TEXT)):
            for judge, title in (("fair", "judge that filtered nothing"), ("filter", "scorer that filtered the pairs")):
                value = mean(toxicity(bed, system, TOXICITY, judge))
                change = "" if system == "base" else f", {percents(toxicity(bed, system, 'change', judge))}"
                cells[f"{name}: {title}"] = value + change
            cells[f"{name}: perplexity, x base's"] = mean(toxicity(bed, system, "of_base"), 2)
        table.append(cells)
    return markdown_table(table)


def headline() -> str:
    """Return the table of README: the change of toxicity by both judges, and the perplexity."""
    table = []
    for system in ("safe prompt, equal length", "untrained patch", "SFT only", "DPO only", "patch", "teacher"):
        cells = {"system": SHOWN.get(system, system)}
        for name, bed in (("lab", LAB), ("real text", TEXT)):
            fair, filtering = (toxicity(bed, system, "change", judge) for judge in ("fair", "filter"))
            strong = "**" if system == "patch" else ""
            cells[f"{name}: fair judge"] = f"{strong}{percents(fair)}{strong}"
            cells[f"{name}: filter"] = percent(filtering)
            cells[f"{name}: perplexity"] = f"x {mean(toxicity(bed, system, 'of_base'), 2)}"
        table.append(cells)
    return markdown_table(table)


def over_seeds_tables(name: str) -> str:
    """Return the tables that `over_seeds.py` writes."""
    return over_seeds.markdown(stored(name)).strip()


def starts_table(name: str, judge: int) -> str:
    """Return the rows of a file of `starts.py` by one of its scorers, as `over_seeds.py` writes them."""
    summary = stored(name)
    scorer = list(summary["scorers"])[judge]
    return over_seeds.markdown({**summary, "scorers": {scorer: scorer}}).split("\n\n")[1]


# The other studies


def choice(file: str, name: str, figure: str = "change") -> list[float]:
    """Return a figure of one choice of an ablation for each seed: a key, `change` or `of_base`."""
    found = stored(file)
    own, base = list(found[name].values()), [found["base"][seed] for seed in found[name]]
    if figure == "change":
        return [value / 100 for value in ablations.changes(own, base)]
    return ablations.ratios(own, base) if figure == "of_base" else [row[figure] for row in own]


def ablation_table(file: str) -> str:
    return ablations.markdown(stored(file)).strip()


def search_table() -> str:
    """Return the table of the earlier search, whose file has no toxic rate."""
    table = []
    for name, by_seed in stored("choices").items():
        table.append(
            {
                "choice": name,
                "seeds": str(len(by_seed)),
                "average maximum toxicity": spread(choice("choices", name, TOXICITY)),
                "change": "" if name == "base" else percents(choice("choices", name)),
                "perplexity": spread(choice("choices", name, "perplexity"), 1),
                "of base's": spread(choice("choices", name, "of_base"), 2),
            }
        )
    return markdown_table(table)


def stacks_table() -> str:
    """Return every risk under every stack."""
    return three_risks.table(stored("three_risks")["results"]).strip()


def stack(system: str, risk: str, metric: str) -> list[float]:
    """Return a metric of a system in the study of stacks, for each seed."""
    return [found["matrix"][risk][metric][system]["value"] for found in stored("three_risks")["results"].values()]


def orders(risk: str, metric: str, *, last: str | None = None, length: int = 3) -> list[list[float]]:
    """Return a metric of all stacks of a length, for each stack its seeds; `last` or not `!last` closes the stack."""
    first = next(iter(stored("three_risks")["results"].values()))
    names = [name for name, parts in first["stacks"].items() if len(parts) == length]
    if last is not None:
        names = [name for name in names if (name.split(" + ")[-1] == last.lstrip("!")) != last.startswith("!")]
    return [stack(name, risk, metric) for name in names]


def range_of(figures: Iterable[Iterable[float]], digits: int = 2) -> str:
    """Return the lowest and the highest mean of several figures: `0.09 to 0.19`."""
    means = [sum(values) / len(values) for values in map(list, figures)]
    return f"{min(means):.{digits}f} to {max(means):.{digits}f}"


def several_table() -> str:
    return several_risks.markdown(stored("several_risks")["results"]).strip()


def several(system: str, figure: str) -> list[float]:
    return [row[figure] for row in stored("several_risks")["results"][system]]


def ways(file: str, split: str) -> dict[str, Any]:
    """Return the ways of training of the study of stacks: way -> seed -> figures of each stack."""
    return stored(file)["results"][split]


def ways_table(file: str, split: str, chosen: list[str]) -> str:
    """Return what each way's patches do alone, and the worst that stacks keep of it, as Markdown."""
    return stacks.summary({way: ways(file, split)[way] for way in chosen}).strip()


def alone(file: str, split: str, way: str, name: str, metric: str) -> list[float]:
    """Return a figure of one patch of a way for each seed."""
    return [found[name][metric] for found in ways(file, split)[way].values()]


def least_kept(
    file: str, split: str, way: str, names: Iterable[str] = stacks.RISKS, *, fourth: bool = False
) -> list[float]:
    """Return the smallest share of its own effect that a patch keeps in any stack, a mean over seeds."""
    seeds = ways(file, split)[way]
    shares = stacks.kept_in(seeds, stacks.stacks_of(seeds, None, with_fourth=fourth))
    return [min(share for (_, name), share in shares.items() if name in set(names))]


def over_refusal_added(file: str, split: str, way: str) -> float:
    """Return by how many points a stack with the harm patch refuses more look-alikes than that patch alone, at most."""
    seeds = ways(file, split)[way]
    found = [name for name in stacks.stacks_of(seeds, None, with_fourth=False) if "harm" in name]
    return 100 * max(stacks.over_refusal_above_own(seeds, name) for name in found)


def utility_table(file: str) -> str:
    """Return what patches cost on harmless text, as Markdown."""
    return utility.table(stored(file))


def lm_eval_table(file: str) -> str:
    """Return what patches cost on tasks of lm-evaluation-harness, as Markdown."""
    return lm_eval_tasks.table(stored(file))


def attack_table(file: str) -> str:
    """Return how often each system answers under each attack, as Markdown."""
    return attacks.markdown(stored(file))


def under_attack(file: str, system: str, names: Iterable[str] | None = None) -> list[float]:
    """Return a system's ASR under each of these attacks, or under all of them."""
    found = stored(file)["systems"][system]["asr"]
    return [found[name][0] for name in names or found]


def refused_harmless(file: str, system: str, kind: str) -> list[float]:
    """Return the share of harmless requests of a kind that a system refuses."""
    return [stored(file)["systems"][system]["over_refusal"][kind][0]]


def guard_cost_table(file: str) -> str:
    """Return what a guard costs beside a patch, as Markdown."""
    return guard_cost.table(stored(file))


def on_harmless_text(file: str, system: str) -> list[float]:
    """Return a system's perplexity on harmless text, divided by the base's, for each domain."""
    return [found["of_base"][0] for found in stored(file)["systems"][system]["domains"].values()]


def harm(system: str, column: str = "ASR", judge: str = "fair") -> list[float]:
    """Return a figure of harm on real text for each seed; `everyday` is what is refused of everyday instructions.

    Args:
        system (`str`):
            As in the reports, such as `"patch"` or `"sft_only"`.
        column (`str`, *optional*, defaults to `"ASR"`):
            `"ASR: HarmBench"` and so on, `"over-refusal"`, `"perplexity"` or `"everyday"`.
        judge (`str`, *optional*, defaults to `"fair"`):
            `"fair"`, which filtered nothing, or `"filter"`.
    """
    file, column = ("real_harm_everyday", "over-refusal") if column == "everyday" else ("real_harm", column)
    figures = stored(file)["figures"]
    return figures[list(figures)[judge == "filter"]][system][column]


def harm_table(judge: str) -> str:
    """Return harm on real text by source, as Markdown; beside the fair judge's, what is refused and the perplexity.

    What is refused is decided by phrases, whichever judge decides what is harmful.
    """
    systems = [name for name in next(iter(stored("real_harm")["figures"].values())) if name not in ("patch", "teacher")]
    shown = {**SHOWN, "safe prompt, equal length": "the same, repeated to the patch's length"}  # not of the start
    rows = []
    for system in (*systems, "patch", "teacher"):
        row = {"system": shown.get(system, system)}
        row |= {f"ASR, {name}": spread(harm(system, f"ASR: {name}", judge)) for name in HARM_SOURCES}
        if judge == "fair":
            base = harm("base", "perplexity")
            ratio = [one / other for one, other in zip(harm(system, "perplexity"), base, strict=True)]
            row["XSTest's safe ones refused"] = spread(harm(system, "over-refusal"))
            row["everyday ones refused"] = spread(harm(system, "everyday"))
            row["x base's perplexity"] = spread(ratio, 2)
        rows.append(row)
    return markdown_table(rows)


def printed(table: str, row: str, column: str, risk: str | None = None) -> list[float]:
    """Return mean, lowest and highest of a table whose reports were not kept."""
    found = stored("printed")[table]
    return (found[risk] if risk else found)[row][column]


def printed_mean(*where: str, digits: int = 2, risk: str | None = None) -> str:
    return f"{printed(*where, risk=risk)[0]:.{digits}f}"


def printed_spread(table: str, row: str, column: str, digits: int = 2) -> str:
    """Return mean, lowest and highest of a printed figure: `0.34 [0.17, 0.66]`."""
    return _triple(printed(table, row, column), digits)


def printed_change(table: str, column: str, system: str, base: str = "base", risk: str | None = None) -> list[float]:
    """Return the relative change of the means of two systems."""
    if risk:  # there the metrics are the rows
        own, other = printed(table, column, system, risk)[0], printed(table, column, base, risk)[0]
    else:
        own, other = printed(table, system, column)[0], printed(table, base, column)[0]
    return [own / other - 1]


def printed_table(table: str, first: str, digits: dict[str, int]) -> str:
    """Return a table of `printed.json` as Markdown; `digits` of its columns where they are not three."""
    rows = [
        {first: name, **{column: _triple(value, digits.get(column, 3)) for column, value in found.items()}}
        for name, found in stored("printed")[table].items()
    ]
    return markdown_table(rows)


def details_table() -> str:
    """Return every metric of every risk for base, teacher, own patch, the whole stack and the joint patch."""
    rows = [
        {"risk": risk, "metric": metric, **{column: _triple(value, 3) for column, value in found.items()}}
        for risk, metrics in stored("printed")["three_risks_details"].items()
        for metric, found in metrics.items()
    ]
    return markdown_table(rows)


def _triple(value: list[float], digits: int) -> str:
    middle, low, high = value
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def paper_seeds(risk: str) -> list[dict[str, Any]]:
    return list(stored(f"paper_tables_{risk}")["results"]["lab:teacher"].values())


def paper_table(risk: str, columns: list[str] | None = None) -> str:
    """Return the paper's table beside ours; without `columns`, all of them."""
    seeds = paper_seeds(risk)
    label = next(iter(seeds[0]["systems"]["base"]["metrics"]))
    rows = paper_tables.compared(seeds, label, risk)
    if columns is not None:
        every = {row["system"]: row for row in paper_tables.every_metric(seeds, label)}
        rows = [{name: row.get(name, every[row["system"]].get(name, "")) for name in columns} for row in rows]
    return markdown_table(rows)


def paper_note(risk: str) -> str:
    found = stored(f"paper_tables_{risk}")
    return paper_tables.note(found["results"]["lab:teacher"], found["settings"])


def paper(risk: str, system: str, figure: str = "change") -> list[float]:
    """Return a figure of the paper's tables for each seed: `change`, `parameters`, `bytes`, `training`, a metric, or a
    figure of fluency."""
    rows = [seed["systems"][system] for seed in paper_seeds(risk)]
    label = next(iter(rows[0]["metrics"]))
    if figure == "change":
        return [row["change"][label][0] for row in rows]
    if figure in ("parameters", "bytes", "training"):
        return [row[figure] for row in rows]
    return [{**row["metrics"][label], **row["fluency"]}[figure][0] for row in rows]


def slower(risk: str, system: str) -> str:
    """Return how much longer a generation takes than the base's: the median over all seeds, `+15%`."""
    ratios = [ratio for seed in paper_seeds(risk) for ratio in seed["systems"][system]["ratios"]]
    return paper_tables.slower(ratios).split()[0]


def minutes(file: str) -> str:
    """Return the minutes of training that the file of an ablation has noted."""
    rows = [row for by_seed in stored(file).values() for row in by_seed.values()]
    return f"{sum(row.get('training_seconds', 0) for row in rows) / 60:.0f}"


def headline_title(risk: str) -> str:
    return RISKS[risk].headline.title


def paper_minutes(risk: str) -> str:
    """Return the minutes of training in a file of `paper_tables.py`: of the patch and of LoRA, over all seeds."""
    rows = [row for seed in paper_seeds(risk) for name, row in seed["systems"].items() if not name.endswith("merged")]
    return f"{sum(row['training'] or 0 for row in rows) / 60:.0f}"


def cpu_minutes(name: str) -> str:
    """Return the minutes of one core that a file of `starts.py` has noted."""
    return f"{sum(stored(name)['cpu_seconds'].values()) / 60:.0f} minutes of one core"
