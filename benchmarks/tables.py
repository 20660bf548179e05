"""The pages with results: README, docs/results.md, docs/study_*.md and docs/reproduce.md, made from templates and JSON.

    python -m benchmarks.tables            # says which pages differ, and ends with 1
    python -m benchmarks.tables --write    # writes the pages and the picture of the results

A template in `benchmarks/pages` is the text of a page. `{{ ... }}` in it is a figure or a table, computed by
`stored_figures.py` from a file in `docs/results`. So every figure of these pages has a file, and
`tests/test_tables.py` computes all of them anew.
"""

import argparse
import re
import sys
import textwrap
from pathlib import Path

import jinja2

sys.path.insert(0, str(Path(__file__).parent))  # the other benchmarks import each other by their bare names
import stored_figures

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "benchmarks" / "pages"
MADE = "<!-- Made from benchmarks/pages/{name}: change that, then run `python -m benchmarks.tables --write`. -->\n"
WIDTH = 130
PICTURE = ROOT / "docs" / "images" / "answer.png"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the pages; without it they are compared")
    parser.add_argument("--figures", type=Path, help="also write the picture of the results as PDF, PNG and CSV there")
    args = parser.parse_args()
    differ = [name for name, text in pages().items() if not is_written(name, text)]
    if args.write:
        from answer_picture import write_answer

        for name in differ:
            place(name).write_text(pages()[name], encoding="utf-8")
            print(f"wrote {name}")
        write_answer(PICTURE)
    else:
        print("\n".join(f"differs: {name}" for name in differ) or "All pages are as their templates and files say.")
    if args.figures:
        from answer_picture import write_answer

        args.figures.mkdir(parents=True, exist_ok=True)
        for ending in ("pdf", "png", "csv"):
            write_answer(args.figures / f"answer.{ending}")
    return 0 if args.write else int(bool(differ))


def pages() -> dict[str, str]:
    """Return the text of each page by its name, such as `README.md` or `study_lab.md`."""
    return {path.name: page(path.read_text(encoding="utf-8"), path.name) for path in sorted(TEMPLATES.glob("*.md"))}


def page(template: str, name: str) -> str:
    """Return the text of one page.

    Raises:
        jinja2.UndefinedError, KeyError: the template names a figure that no file has.
    """
    # Markdown, not HTML, from templates of this repository.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    environment.globals |= {found: value for found, value in vars(stored_figures).items() if not found.startswith("_")}
    environment.filters |= stored_figures.FILTERS
    return MADE.format(name=name) + rewrapped(environment.from_string(template).render())


def rewrapped(text: str) -> str:
    """Return Markdown with its paragraphs and list items wrapped anew, because figures change the length of lines.

    Code, tables, headings and pictures stay as they are.
    """
    lines, block, in_code = [], [], False

    def close() -> None:
        if block:
            indent = re.match(r" *(?:- )?", block[0])[0]
            words = " ".join(line.strip() for line in block).removeprefix("- ")
            around = {"initial_indent": indent, "subsequent_indent": " " * len(indent)}
            lines.extend(textwrap.wrap(words, WIDTH, break_long_words=False, break_on_hyphens=False, **around))
            block.clear()

    for line in text.split("\n"):
        start = line.lstrip()
        fence = start.startswith("```")
        if in_code or fence or not start or start[0] in "|#!<":
            close()
            lines.append(line)
        else:
            if start.startswith("- "):
                close()
            block.append(line)
        in_code ^= fence
    close()
    return "\n".join(lines)


def place(name: str) -> Path:
    """Return where a page lies."""
    return ROOT / name if name == "README.md" else ROOT / "docs" / name


def is_written(name: str, text: str) -> bool:
    return place(name).exists() and place(name).read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
