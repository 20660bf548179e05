"""What do patches cost on tasks of lm-evaluation-harness that very small models can do at all?

    python benchmarks/lm_eval_tasks.py --base models/tinytoxic-base --patches tox=tox-0 bias=bias-0 \\
        --stories tinystories_1000.json --encyclopaedia wikitext2_test.txt --output docs/results/lm_eval_text.json

lm-eval's usual tasks need a network, and models of 4 million parameters answer them by chance. So these two are in the
same forms, on local files:

- `story_ending`: which of four sentences ends a story, after the StoryCloze test (arXiv 1604.01696): its own last
  sentence, or those of the three following stories. Stories take part that fit into a quarter of the usual context of
  512 tokens. Guessing gives 0.25.
- `encyclopaedia`: perplexity by word of whole articles, as lm-eval's own `wikitext` has it.

Each patch, and the stack of all, is run by `PolicyPatchLM` beside the base (`__base__`), with equal windows.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from stored_run import made_with, write_result
from utility import named, parser_for_patches

from policy_patch.patch_folder import read_patch_folder
from policy_patch.report.tables import markdown_table

BASE = "base"
LONGEST_STORY = 900  # characters, about 250 tokens of these tokenizers
TASKS: dict[str, dict[str, Any]] = {
    "story_ending": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{story}}",
        "doc_to_choice": "{{endings}}",
        "doc_to_target": "{{place}}",
        "metric_list": [{"metric": "acc"}],
    },
    "encyclopaedia": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}
FIGURES = {"story_ending": "acc,none", "encyclopaedia": "word_perplexity,none"}


def main() -> None:
    from lm_eval import simple_evaluate  # here, because the tables are made without lm-eval, too
    from lm_eval.tasks import TaskManager

    from policy_patch.evaluation.lm_eval_model import PolicyPatchLM

    args = parse()
    torch.set_num_threads(1)
    patches = {name: str(paths[0]) for name, paths in named(args.patches).items()}
    systems = {BASE: "__base__", **patches}
    if len(patches) > 1:
        systems[" + ".join(patches)] = "+".join(patches.values())
    vectors = {name: len(read_patch_folder(folder)[1]) for name, folder in patches.items()}
    window = args.context - sum(vectors.values())
    result: dict[str, Any] = {
        "settings": {"window": window, "articles": args.articles},
        "made_with": made_with(),
        "systems": {},
    }
    with tempfile.TemporaryDirectory() as name:
        tasks = written(Path(name), stories(args.stories), articles(args.encyclopaedia)[: args.articles])
        for system, patch in systems.items():
            model = PolicyPatchLM(args.base, patch, max_length=window, batch_size=16, device="cpu", dtype="float32")
            found = simple_evaluate(model=model, tasks=tasks, task_manager=TaskManager(), bootstrap_iters=1000)
            result["systems"][system] = {
                "vectors": sum(vectors[part] for part in system.split(" + ") if part != BASE),
                "tasks": {task: figures(found["results"][task], key) for task, key in FIGURES.items()},
            }
            result["settings"] |= {"items": {task: found["n-samples"][task]["effective"] for task in FIGURES}}
            print(system, result["systems"][system]["tasks"], flush=True)
    write_result(args.output, result)
    print(table(result))


def parse() -> argparse.Namespace:
    parser = parser_for_patches(__doc__)
    parser.add_argument("--stories", type=Path, required=True, help="a JSON list of texts")
    parser.add_argument("--encyclopaedia", type=Path, required=True, help="WikiText-2, as raw text")
    parser.add_argument("--articles", type=int, default=30, help="of the encyclopaedia; %(default)s")
    parser.add_argument("--context", type=int, default=512, help="positions of the base; %(default)s")
    return parser.parse_args()


def stories(path: Path) -> list[dict[str, Any]]:
    """Return stories without their last sentences, and four endings each; the place of the true one goes round."""
    texts = [text.replace("\n\n", " ") for text in json.loads(path.read_text(encoding="utf-8"))]
    parts = [re.split(r'(?<=[.!?"]) (?=[A-Z])', text.strip()) for text in texts if len(text) <= LONGEST_STORY]
    parts = [sentences for sentences in parts if len(sentences) > 3]
    found = []
    for at, sentences in enumerate(parts):
        endings = [parts[(at + step) % len(parts)][-1] for step in range(4)]
        place = at % 4
        endings[0], endings[place] = endings[place], endings[0]
        found.append({"story": " ".join(sentences[:-1]), "endings": endings, "place": place})
    return found


def articles(path: Path) -> list[dict[str, str]]:
    """Return the articles of WikiText, which begin with lines such as ` = Title = `."""
    parts = re.split(r"(?m)^ = (?=[^=\n]+ = $)", path.read_text(encoding="utf-8"))
    return [{"text": part.strip()} for part in parts if len(part.split()) > 50]


def written(folder: Path, *data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the data of each task where lm-eval reads it, and return the tasks."""
    found = []
    for (name, task), rows in zip(TASKS.items(), data, strict=True):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        where = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
        found.append({"task": name, **where, **task})
    return found


def figures(found: dict[str, Any], key: str) -> list[float | None]:
    """Return a figure and its standard error, as lm-eval gives them; for perplexity it gives no error."""
    error = found.get(key.replace(",", "_stderr,"))
    return [round(float(found[key]), 4), round(float(error), 4) if isinstance(error, float) else None]


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown, with the standard error where there is one."""
    rows = []
    for system, row in result["systems"].items():
        cells = {"system": system, "vectors": str(row["vectors"])}
        for task, (value, error) in row["tasks"].items():
            cells[f"`{task}`"] = f"{value:.3f} ± {error:.3f}" if error is not None else f"{value:.1f}"
        rows.append(cells)
    return markdown_table(rows)


if __name__ == "__main__":
    main()
