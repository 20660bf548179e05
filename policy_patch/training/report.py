"""Writes the training report next to a patch: one page and one picture that show what was trained, how, and the result.

All of it comes from the settings and log entries of the stages. How well the patch works is measured by the evaluation.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import MissingExtraError
from policy_patch.files.atomic import write_whole
from policy_patch.privacy.local_names import without_folders
from policy_patch.training.curves import curves
from policy_patch.training.health import ACCURACY, WARNINGS
from policy_patch.training.patch_norms import DISTANCE, NORM

logger = logging.get_logger(__name__)

REPORT_NAME = "training_report.md"
CURVES_NAME = "training_curves.png"

_PACKAGES = ("policy-patch", "torch", "transformers", "trl", "accelerate", "datasets")
_SETTINGS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm", "max_steps",
    "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "max_length",
    "bf16", "fp16", "seed", "kl_weight", "max_vector_norm", "reference", "beta", "loss_type", "label_smoothing",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The content of a training report.

    Args:
        config ([`PolicyPatchConfig`]):
            Configuration of the patch.
        base (`str`):
            Name of the base, or its folder.
        settings (`dict[str, TrainingArguments]`):
            Settings of each stage, under the keys `"sft"` and `"dpo"`.
        log (`dict[str, Sequence[dict]]`):
            Log entries of each stage that has begun, under the same keys.
        data (`dict[str, int]`):
            Counts of the data, as returned by [`data_counts`].
        embedding_norm (`float`):
            Mean L2 norm of the base's token embeddings.
    """

    config: PolicyPatchConfig
    base: str
    settings: dict[str, Any]
    log: dict[str, Sequence[dict[str, Any]]]
    data: dict[str, int]
    embedding_norm: float

    def save(self, folder: str | Path) -> None:
        """Write `training_report.md` and `training_curves.png` into `folder`.

        It never raises an error, so that a failed report cannot stop a training run. If the picture or the page cannot
        be written, there is a warning; the page also says that the picture is missing.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shown = (
                self._save_picture(folder) if any("loss" in entry for log in self.log.values() for entry in log) else ""
            )
            write_whole(folder / REPORT_NAME, self.to_markdown(shown).encode())
        except OSError as error:
            logger.warning(f"The training report was not written to `{folder}`: {error}. The patch is not affected.")

    def _save_picture(self, folder: Path) -> str:
        """Write the picture, and return the Markdown that shows it in the page."""
        try:
            title = f"{self._patch_name()} on {self._base_name()}"
            write_whole(folder / CURVES_NAME, curves(self.log, embedding_norm=self.embedding_norm, title=title))
        except MissingExtraError as error:
            logger.warning_once(f"The training report in `{folder}` has no picture. {error}")
            return "*No picture: it needs the extra `policy-patch[eval]`.*"  # without the folder of the package
        return f"![Loss, rewards, vectors and learning rate, step by step]({CURVES_NAME})"

    def to_markdown(self, picture: str = "") -> str:
        """Return the page, with `picture` as its second paragraph."""
        stages = [stage for stage in ("sft", "dpo") if stage in self.log]
        columns = {stage.upper(): self._outcome(stage) for stage in stages}
        parts = [
            f"# Training report: {self._patch_name()}",
            picture,
            "## What was trained",
            _table({"value": self._subject()}),
            "## How it went",
            _table(columns),
            "## Warnings",
            "\n".join(self._warnings()) or "None.",
            "## Settings",
            _table({stage.upper(): self._settings(stage) for stage in stages}),
            "## Versions",
            _table({"version": _versions()}),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _patch_name(self) -> str:
        return " ".join(filter(None, [self.config.risk, "patch", self.config.patch_version]))

    def _base_name(self) -> str:
        """Return the base's name. For a folder it is the last part only, because the path may reveal private names."""
        return without_folders(self.base) or "a base without a name"

    def _subject(self) -> dict[str, str]:
        config = self.config
        start = f'{config.init}: "{config.init_text}"' if config.init == "text" and config.init_text else config.init
        return {
            "base": f"`{self._base_name()}`",
            "vectors": f"{config.num_virtual_tokens}, `{config.placement}`",
            "start of the vectors": start,
            **{name: f"{value:,}" for name, value in self.data.items()},
        }

    def _outcome(self, stage: str) -> dict[str, str]:
        """Return the figures of one stage as texts, most of them from the first and the last log entry."""
        entries = self.log[stage]
        points = [entry for entry in entries if "loss" in entry]
        if not points:
            return {"steps": f"0 of {_steps(self.settings[stage])}"}
        end = next((entry for entry in entries if "stage_seconds" in entry), {})
        last = points[-1]

        def course(name: str, form: str, since: int = 0) -> str:
            shown = [point[name] for point in points[since:] if name in point]
            return f"{shown[0]:{form}} → {shown[-1]:{form}}" if shown else ""

        evaluations = [entry["eval_loss"] for entry in entries if "eval_loss" in entry]
        steps = f"{last['step']}" if end else f"{last['step']} of {_steps(self.settings[stage])}, then stopped"
        return {
            "steps": steps,
            "epochs": f"{last['epoch']:.2f}",
            "loss, first and last entry": course("loss", ".4f"),
            "evaluation loss": f"{evaluations[0]:.4f} → {evaluations[-1]:.4f}" if evaluations else "",
            "reward accuracy": course(ACCURACY, ".3f", since=1),
            "reward margin": course("rewards/margins", ".3f"),
            "token accuracy": course("mean_token_accuracy", ".3f"),
            "mean norm of a vector": course(NORM, ".3f"),
            "distance from the stage's start": f"{last[DISTANCE]:.2%}",
            "time": f"{end['stage_seconds']:.1f} s" if end else "",
            "tokens": f"{last['num_tokens']:,.0f}" if "num_tokens" in last else "",
            "tokens per second": f"{end['tokens_per_second']:,.0f}" if end else "",
        }

    def _warnings(self) -> list[str]:
        return [
            f"- **{stage.upper()}, step {entry['step']}.** {message}"
            for stage, entries in self.log.items()
            for entry in entries
            for message in entry.get(WARNINGS, {}).values()
        ]

    def _settings(self, stage: str) -> dict[str, str]:
        """Return only the settings that influence the result: no folders, names or tokens."""
        args = self.settings[stage]
        found = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name, None) is not None}
        if args.max_steps > 0:
            found.pop("num_train_epochs")
        return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> str:
    """Return a setting as plain text, without names of enum classes and without brackets around lists."""
    if isinstance(value, list | tuple):
        return ", ".join(_plain(part) for part in value)
    return f"{value:g}" if type(value) is float else str(getattr(value, "value", value))


def data_counts(rows: Any, eval_rows: Any = None) -> dict[str, int]:
    """Return the number of rows and of different prompts, for a [`TrainingReport`].

    Args:
        rows (`datasets.Dataset`):
            Training rows.
        eval_rows (`datasets.Dataset`, *optional*):
            Evaluation rows.
    """
    found = {"rows to train on": len(rows)}
    if "prompt" in rows.column_names:
        found["different prompts"] = len({json.dumps(prompt) for prompt in rows["prompt"]})
    if eval_rows is not None:
        found["rows to evaluate on"] = len(eval_rows)
    return found


def _steps(args: Any) -> str:
    return str(args.max_steps) if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.cuda.get_device_name() if accelerator is not None and accelerator.type == "cuda" else accelerator
    found["device"] = f"{device or 'cpu'} ({platform.machine()})"
    return found


def _table(columns: dict[str, dict[str, str]]) -> str:
    """Return a Markdown table of columns (title -> row name -> text), without rows that are empty in all columns."""
    rows = dict.fromkeys(name for column in columns.values() for name in column)
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name in rows:
        cells = [column.get(name, "").replace("|", "\\|").replace("\n", " ") for column in columns.values()]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
