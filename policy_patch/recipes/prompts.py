"""Prompts by the names that recipes and command lines give: files, the Hub, occupations, public sets and the lab's.

How a file of prompts is read is settled in `policy_patch.data`.
"""

import os
import re
from pathlib import Path

from policy_patch.data import load_prompts, occupation_prompts, public_prompts
from policy_patch.data.public_sets import PUBLIC_PROMPTS
from policy_patch.errors import DataError

PROMPTS_HELP = (
    "File of prompts (.txt: one a line; .jsonl, .json, .csv or .parquet: `prompt`), a dataset on the Hub "
    "(`org/prompts@<commit>`), `occupations/train` and `occupations/test` (openings about people at work; of your own "
    "list: `occupations:<file>/test`), `realtoxicityprompts[/challenging]`, `winobias/test`, `jailbreakbench/harmful` "
    "and `jailbreakbench/benign` (fetched from the Hub), or the lab's `lab:toxicity/train` and `lab:toxicity/test`."
)
OCCUPATIONS = re.compile(r"occupations(?::(.+))?/(train|test)")


def prompts_of(spec: str) -> list[str]:
    """Return the prompts of a file, of `occupations/<split>`, `<risk>/<split>`, a public name or `lab:<set>/<split>`.

    Raises:
        DataError: no such file or set.
        HubError: the Hub does not give them.
    """
    if spec in PUBLIC_PROMPTS:
        return public_prompts(spec)[0]
    if occupations := OCCUPATIONS.fullmatch(spec):
        return occupation_prompts(occupations[2], occupations[1])
    if not spec.startswith("lab:"):
        from policy_patch.evaluation.risks import own_prompts

        own = own_prompts(spec)
        return load_prompts(spec) if own is None else prompts_of(own) if isinstance(own, str) else list(own)
    from policy_patch.lab import lab_prompts

    risk, _, split = spec.removeprefix("lab:").partition("/")
    if not split:
        raise DataError(f"`{spec}` names no split; expected e.g. `lab:toxicity/train` or `lab:toxicity/test`.")
    return lab_prompts(risk, split)


def categories_of(spec: str, count: int) -> list[str] | None:
    """Return the category of each of the first `count` prompts of a source that has them, else None."""
    from policy_patch.data.file_formats import read_rows

    if spec in PUBLIC_PROMPTS:
        return public_prompts(spec)[1][:count]
    if not os.path.isfile(spec) or Path(spec).suffix == ".txt":
        return None
    found = [row.get("category") if isinstance(row, dict) else None for _, row in read_rows(Path(spec))][:count]
    return [str(category) for category in found] if all(found) else None
