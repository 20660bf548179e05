"""Loads prompts by their names in recipes and command lines: files, datasets on the Hub, and built-in or public sets.

`policy_patch.data` reads files of prompts.
"""

import os
import re
from pathlib import Path

from policy_patch.data import load_prompts, occupation_prompts, public_prompts
from policy_patch.data.public_sets import PUBLIC_PROMPTS
from policy_patch.errors import DataError

PROMPTS_HELP = (
    "A file of prompts (.txt: one per line; .jsonl, .json, .csv or .parquet: a column `prompt`), a dataset on the Hub "
    "(`org/prompts@<commit>`), `occupations/train` and `occupations/test` (openings about people at work; with your "
    "own list: `occupations:<file>/test`), `realtoxicityprompts[/challenging]`, `winobias/test`, "
    "`jailbreakbench/harmful` and `jailbreakbench/benign` (fetched from the Hub), or the lab's `lab:toxicity/train` "
    "and `lab:toxicity/test`."
)
OCCUPATIONS = re.compile(r"occupations(?::(.+))?/(train|test)")


def asked_of(spec: str, risk: str | None) -> list[str]:
    """Return prompts for a risk, given by its name; if it has look-alikes, without those labelled as harmless."""
    return prompts_of(spec, labelled=_label_of(risk))


def look_alikes_of(spec: str) -> list[str]:
    """Return harmless look-alikes: the prompts with the given name, without those labelled as harmful."""
    return prompts_of(spec, labelled="harmless")


def prompts_of(spec: str, *, labelled: str | None = None) -> list[str]:
    """Return the prompts with the given name.

    Args:
        spec (`str`):
            A file, a dataset on the Hub, the name of a public set, `occupations/<split>`, `<risk>/<split>` for a
            registered risk's own prompts, or `lab:<set>/<split>`.
        labelled (`"harmful"` or `"harmless"`, *optional*):
            As in [`load_prompts`], for files and datasets. Named sets, and a risk's own list, have no labels.

    Raises:
        DataError: the file or set does not exist, or a row holds no prompt.
        HubError: the prompts cannot be fetched from the Hub.
    """
    if spec in PUBLIC_PROMPTS:
        return public_prompts(spec)[0]
    if occupations := OCCUPATIONS.fullmatch(spec):
        return occupation_prompts(occupations[2], occupations[1])
    if not spec.startswith("lab:"):
        from policy_patch.evaluation.risks import own_prompts

        own = own_prompts(spec)
        if own is None:
            return load_prompts(spec, labelled=labelled)
        return prompts_of(own, labelled=labelled) if isinstance(own, str) else list(own)
    from policy_patch.lab import lab_prompts

    risk, _, split = spec.removeprefix("lab:").partition("/")
    if not split:
        raise DataError(f"`{spec}` names no split; expected for example `lab:toxicity/train` or `lab:toxicity/test`.")
    return lab_prompts(risk, split)


def categories_of(spec: str, count: int, risk: str | None) -> list[str] | None:
    """Return the categories of the first `count` prompts of [`asked_of`], or None unless each of them has one."""
    from policy_patch.data.file_formats import read_rows
    from policy_patch.data.files import is_opposite

    if spec in PUBLIC_PROMPTS:
        return public_prompts(spec)[1][:count]
    if not os.path.isfile(spec) or Path(spec).suffix == ".txt":
        return None
    rows = [row for _, row in read_rows(Path(spec)) if not is_opposite(row, _label_of(risk))][:count]
    found = [row.get("category") if isinstance(row, dict) else None for row in rows]
    return [str(category) for category in found] if all(found) else None


def _label_of(risk: str | None) -> str | None:
    """Return the label that a row may not contradict; `risk` may be several risks joined by `+`."""
    from policy_patch.evaluation.risks import RISKS

    names = (risk or "").split("+")
    return "harmful" if any(name in RISKS and RISKS[name].asks_safe_prompts for name in names) else None
