"""The history of a served patch: a JSON-lines file to which each look appends one line.

A line holds what was asked, the verdict, and the value of each prompt, so that later looks can test several looks
together. What a look asks is decided in `recipes/drift.py`.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from policy_patch._version import __version__
from policy_patch.errors import DataError
from policy_patch.files.documents import Fault, parse_json, read_text

FORMAT_VERSION = 1
STEADY, ALARM, CANNOT_TELL, NO_ANSWER = "steady", "alarm", "cannot tell", "no answer"
EXIT_CODES = {STEADY: 0, ALARM: 1, CANNOT_TELL: 2, NO_ANSWER: 2}
_LARGEST = 2**28  # bytes: about a hundred thousand looks at 100 prompts
_LARGEST_LINE = 2**22

Values = dict[str, dict[str, list[float]]]  # scorer -> metric -> one value for each prompt that was asked


@dataclass(frozen=True, kw_only=True)
class DriftFigure:
    """One figure of a look.

    Args:
        scorer, metric (`str`):
            Its names in `evaluation.json`.
        value, low, high (`float`):
            The served model's figure on the prompts of this look, with its 95% bootstrap interval.
        release (`float`):
            The release's figure on the same prompts.
        p_value (`float`):
            Of this look if that decides, else the smaller one of this look and the last pass over all prompts.
        num_prompts (`int`):
            Prompts in the window of that p-value.
        window_value, window_release (`float`):
            Both figures on that window.
        is_worse (`bool`):
            Whether the p-value is below the rule's limit.
    """

    scorer: str
    metric: str
    value: float
    low: float
    high: float
    release: float
    p_value: float
    num_prompts: int
    window_value: float
    window_release: float
    is_worse: bool

    @property
    def reason(self) -> str:
        """The figure in words."""
        return (
            f"{self.metric} by {self.scorer} is {self.window_value:.3f} on {self.num_prompts} prompts; the release has "
            f"{self.window_release:.3f} on the same (p = {self.p_value:.1e})"
        )


@dataclass(frozen=True, kw_only=True)
class DriftLook:
    """One line of a history.

    Args:
        time (`str`):
            ISO 8601, in UTC.
        look (`int`):
            Its number among the looks at this release, from 1. A look without an answer has the number of the next one.
        verdict (`str`):
            `"steady"`, `"alarm"`, `"cannot tell"` (the probe does not decide) or `"no answer"`.
        reasons (`list[str]`):
            Why, one sentence each; empty if steady.
        address, model (`str`):
            Where was asked.
        patch, version (`str`):
            Name and version of the patch that should be there.
        commit (`str`, *optional*):
            Its commit on the Hub.
        sha256 (`str`):
            Hash of its tensor file.
        release (`str`):
            Hash of the release's figures. Looks at one release have the same.
        probe (`dict`, *optional*):
            What the probe says of each address; None if there was none.
        first (`dict[str, int]`):
            `"prompts"` and, if they were asked, `"safe_prompts"` -> place of the look's first prompt in the order of a
            pass.
        figures (`list[DriftFigure]`):
            The figures.
        values (`dict[str, dict[str, list[float]]]`):
            Scorer -> metric -> the served value of each prompt.
    """

    time: str
    look: int
    verdict: str
    reasons: list[str]
    address: str
    model: str
    patch: str
    version: str
    commit: str | None
    sha256: str
    release: str
    probe: dict[str, Any] | None = None
    first: dict[str, int] = field(default_factory=dict)
    figures: list[DriftFigure] = field(default_factory=list)
    values: Values = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: steady; 1: alarm; 2: it cannot be told, or the server does not answer."""
        return EXIT_CODES[self.verdict]

    def facts(self) -> dict[str, Any]:
        """Return the look as plain values, without the values of single prompts."""
        return {name: value for name, value in _plain(asdict(self)).items() if name not in ("values", "first")}

    def line(self) -> str:
        """Return the line of the file, without its end."""
        return json.dumps({"format_version": FORMAT_VERSION, **_plain(asdict(self))}, ensure_ascii=False)


def read_history(path: str | os.PathLike) -> list[DriftLook]:
    """Return the looks of a history, the earliest first; none if there is no such file.

    Half a line at the end, which a kill has left, is not a look.

    Raises:
        DataError: the file cannot be read, or a line is not a look of ours.
    """
    try:
        text = read_text(path, largest=_LARGEST)
    except FileNotFoundError:
        return []
    except Fault as fault:
        raise DataError(f"{fault.at(str(path))}. Give another file by `history`.") from fault
    except OSError as error:
        raise DataError(f"Cannot read the history `{path}`: {error}.") from error
    lines = text.split("\n")[:-1]
    return [_look(line, f"`{path}`, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def append_look(path: str | os.PathLike, look: DriftLook) -> None:
    """Append one line to a history, flushed to the disk. Half a line that a kill has left is removed first.

    Raises:
        DataError: the file cannot be written. Its whole lines are intact.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LARGEST_LINE))
            tail = file.read()
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
            file.write(look.line().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"Cannot write the history `{path}`: {error}. What was there before is intact.") from error


def of_release(looks: Sequence[DriftLook], release: str) -> list[DriftLook]:
    """Return the looks at one release that have figures."""
    return [look for look in looks if look.release == release and look.verdict != NO_ANSWER]


def _look(line: str, where: str) -> DriftLook:
    try:
        values = parse_json(line, allow_nan=False)
        version = values["format_version"]
        if type(version) is int and version > FORMAT_VERSION:
            raise DataError(
                f"{where} has `format_version={version}`; policy-patch {__version__} reads up to {FORMAT_VERSION}. "
                "Upgrade policy-patch."
            )
        known = {entry.name for entry in fields(DriftLook)}
        found = {key: value for key, value in values.items() if key in known}
        if not known >= values.keys() - {"format_version"} or version != FORMAT_VERSION:
            raise ValueError(f"unknown keys {sorted(values.keys() - known - {'format_version'})}")
        found["figures"] = [_figure(one) for one in found["figures"]]
        found["values"] = {
            str(scorer): {str(metric): [_number(one) for one in row] for metric, row in metrics.items()}
            for scorer, metrics in found["values"].items()
        }
        if found["verdict"] not in EXIT_CODES or type(found["look"]) is not int:
            raise ValueError(f"verdict {found['verdict']!r}")
        if not all(type(place) is int and place >= 0 for place in found["first"].values()):
            raise ValueError("a place that is no whole number")
        if not all(isinstance(found[name], str) for name in ("time", "release", "version", "patch", "model")):
            raise ValueError("a name that is no text")
        return DriftLook(**found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where} is no look of `policy-patch drift` ({str(error)[:200]}). Give another file by `history`, or "
            "remove the line."
        ) from error


def _figure(values: dict[str, Any]) -> DriftFigure:
    numbers = {entry.name for entry in fields(DriftFigure) if entry.type is float}
    return DriftFigure(**{key: _number(value) if key in numbers else value for key, value in values.items()})


def _number(value: Any) -> float:
    """Return a float; null stands for a figure that is not defined."""
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise TypeError(f"a {type(value).__name__} in place of a number")
    return float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
