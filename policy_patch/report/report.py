"""`EvaluationReport`: the result of an evaluation. It can be read from files, written to files and shown as tables.

`evaluation_json.py` has its JSON format, `tables.py` its tables, `plots.py` its picture.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_patch.config import SIGNATURE_NAME
from policy_patch.errors import EvaluationError
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import Fault, read_text
from policy_patch.privacy.local_names import without_folders
from policy_patch.report import tables
from policy_patch.report.evaluation_json import (
    FORMAT_VERSION,
    LARGEST_REPORT,
    REPORT_NAME,
    parsed,
    report_fields,
    text_of,
    values_of,
)
from policy_patch.report.exporting import figure_files
from policy_patch.report.findings import Findings

TABLE_NAME, PICTURE_NAME = "evaluation.md", "evaluation.png"


@dataclass(frozen=True, kw_only=True)
class EvaluationReport(Findings):
    """The result of [`evaluate_policy_patch`].

    Args:
        risk (`str`):
            Name of the risk that was measured.
        metrics (`list[Metric]`):
            Its metrics; the first is the headline.
        settings (`EvaluationSettings`):
            How answers were sampled and intervals computed.
        scorers (`list[ScorerRecord]`):
            The scorers; the first is the primary one.
        perplexity_model (`str`):
            Name of the model under which perplexity was measured.
        systems (`dict[str, SystemResult]`):
            Figures of each system by its name, in the order of the tables.
        samples (`list[ShownSamples]`):
            Answers of each system to a few prompts. The prompts are evenly spaced, not chosen by result. Not masked.
        comparisons (`list[Comparison]`):
            Each system against the base, and the patch against each other system, on the same prompts.
        categories (`list[str]`, *optional*):
            Category of each prompt, if the prompts have categories.
        offensive_words (`list[str]`):
            Words in the samples, in lower case, that the primary scorer finds toxic on their own. They are masked when
            samples are shown.
        environment (`dict[str, str]`):
            Versions of packages, and the hardware.
        patches (`list[MeasuredPatch]`):
            The patches that were measured, in the order of the stack. Empty in a report of format 2.
        other_risks (`list[EvaluationReport]`):
            One report for each other risk that was measured with the same patch. They have no `other_risks` themselves.
        format_version (`int`, *optional*, defaults to `3`):
            Version of the JSON format.
    """

    format_version: int = FORMAT_VERSION

    # Tables

    def rows(self, scorer: str | None = None) -> list[dict[str, str]]:
        """Return a table as texts: one dictionary per system, all with the same keys.

        Args:
            scorer (`str`, *optional*):
                Name of the scorer whose figures are shown. Defaults to the primary scorer. Show the scorer's `label`
                above the table.

        Raises:
            EvaluationError: the scorer is unknown.
        """
        return tables.rows(self, self.scorer(scorer).name)

    def markdown(self, *, mask_words: bool = True) -> str:
        """Return the report as Markdown: a table per scorer, the settings, and samples side by side.

        Args:
            mask_words (`bool`, *optional*, defaults to `True`):
                Hide the inner letters of offensive words in samples.
        """
        return tables.markdown(self, mask_words=mask_words)

    # Files

    def save(self, folder: str | os.PathLike, *, mask_words: bool = True) -> None:
        """Write `evaluation.json`, `evaluation.md` and `evaluation.png` into a folder.

        Each file is written under another name first and then renamed, so that no file is ever incomplete.

        Args:
            folder (`str` or `os.PathLike`):
                Made if it does not exist; an older report in it is replaced, and the signature of a patch there,
                which covered that report, is removed.
            mask_words (`bool`, *optional*, defaults to `True`):
                Hide the inner letters of offensive words in the samples of `evaluation.md`.

        Raises:
            EvaluationError: full disk, read-only folder and the like.
            MissingExtraError: matplotlib is not installed.
        """
        from policy_patch.report.plots import picture

        contents = {
            REPORT_NAME: self.to_json().encode(),
            TABLE_NAME: self.markdown(mask_words=mask_words).encode(),
            PICTURE_NAME: picture(self),
        }
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SIGNATURE_NAME).unlink(missing_ok=True)  # it covered the earlier report, or the lack of one
            for name, content in contents.items():
                write_whole(folder / name, content)
        except OSError as error:
            raise EvaluationError(f"Cannot write the report to `{folder}`: {error}.") from error

    def save_figures(self, folder: str | os.PathLike, formats: Sequence[str] = ("pdf", "csv")) -> None:
        """Write the figures for a paper: `evaluation.pdf`, `evaluation.svg`, `evaluation.csv`.

        Args:
            folder (`str` or `os.PathLike`):
                Made if it does not exist; files of these names in it are replaced.
            formats (`Sequence[str]`, *optional*, defaults to `("pdf", "csv")`):
                Some of `"pdf"`, `"svg"` (the picture as vector graphics) and `"csv"` (one row for each figure).

        Raises:
            EvaluationError: a format is unknown; full disk, read-only folder and the like.
            MissingExtraError: matplotlib is not installed, and a picture is asked for.
        """
        contents = figure_files(self, formats)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                write_whole(Path(folder, name), content)
        except OSError as error:
            raise EvaluationError(f"Cannot write the figures to `{folder}`: {error}.") from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> "EvaluationReport":
        """Read the report that [`save`] wrote.

        Args:
            path (`str` or `os.PathLike`):
                An `evaluation.json`, or the folder that holds it.

        Raises:
            EvaluationError: the file does not exist or cannot be read, or as in [`from_json`].
        """
        path = Path(path, REPORT_NAME) if Path(path).is_dir() else Path(path)
        how = "Make one with `policy-patch evaluate`."
        try:
            return cls.from_json(read_text(path, largest=LARGEST_REPORT), str(path))
        except OSError as error:
            raise EvaluationError(f"Cannot read the report `{path}`: {error}. {how}") from error
        except Fault as fault:
            raise EvaluationError(f"{fault.at(f'`{path}`')}. {how}") from fault

    def to_json(self) -> str:
        """Return the report as the text of an `evaluation.json`. A figure that is not defined is null."""
        return text_of(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the JSON values of an `evaluation.json`. A figure that is not defined is None."""
        return values_of(self)

    @classmethod
    def from_json(cls, text: str, source: str = REPORT_NAME) -> "EvaluationReport":
        """Read a report from the text of an `evaluation.json`.

        Args:
            text (`str`):
                The JSON text.
            source (`str`, *optional*, defaults to `"evaluation.json"`):
                Name of the file, for error messages.

        Raises:
            EvaluationError: the text is no JSON object, the format version is another one, a key is unknown or missing,
                or a value has a wrong type.
        """
        return cls.from_dict(parsed(text, source), source)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = REPORT_NAME) -> "EvaluationReport":
        """Make a report from the JSON values of an `evaluation.json`.

        Args:
            values (`dict`):
                The values, as [`to_dict`] returns them.
            source (`str`, *optional*, defaults to `"evaluation.json"`):
                Name of the file, for error messages.

        Raises:
            EvaluationError: the values are no object, the format version is another one, a key is unknown or missing,
                or a value has a wrong type.
        """
        return cls(**report_fields(cls, values, source))

    # Publishing

    def without_folders(self) -> "EvaluationReport":
        """Return the report as it is published: of models and scorers in local folders, only the last part is named.

        Prompts and answers are not changed.
        """
        reports = [self, *self.other_risks]
        names = [result.model for report in reports for result in report.systems.values()]
        names += [scorer.name for report in reports for scorer in report.scorers]
        names += [report.perplexity_model for report in reports]
        short = {name: without_folders(name) for name in names}
        short = {name: shown for name, shown in short.items() if name != shown}
        return EvaluationReport.from_dict(_renamed(self.to_dict(), short)) if short else self


def report_of_risk(report: EvaluationReport, risk: str) -> EvaluationReport | None:
    """Return the report of one risk: the given one, or one of its `other_risks`; None if the risk was not measured."""
    return next((one for one in (report, *report.other_risks) if one.risk == risk), None)


def as_report(evaluation: EvaluationReport | Mapping[str, Any] | None) -> EvaluationReport | None:
    """Return an evaluation as a report. A parsed `evaluation.json` is converted; a report and None stay as they are.

    Public functions that take an `evaluation` call this first, so that the rest of the package uses only reports.

    Raises:
        EvaluationError: as in [`EvaluationReport.from_dict`].
    """
    if evaluation is None or isinstance(evaluation, EvaluationReport):
        return evaluation
    return EvaluationReport.from_dict(evaluation, "`evaluation`")


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return JSON values in which each key and each text that is a key of `names` is replaced by its value there."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_renamed(entry, names) for entry in value]
    return names.get(value, value) if isinstance(value, str) else value
