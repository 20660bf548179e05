"""Writes the model card of a patch from its configuration and evaluation, and updates it without losing edits.

The text of the card is in `templates/model_card.md`. No network is used.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK  # the expression that the Hub's server uses, too

from policy_patch.config import PolicyPatchConfig
from policy_patch.files.documents import Fault
from policy_patch.files.yaml_documents import parse_yaml
from policy_patch.model_card.eval_results import (
    can_be_hub_id,
    figure_on_card,
    is_hub_id,
    metrics_on_card,
    model_index_results,
)
from policy_patch.report.report import EvaluationReport, as_report
from policy_patch.report.tables import metric_notes

CARD_NAME = "README.md"
LIBRARY_NAME = "policy-patch"
TAGS = ("policy-patch", "safety")

_TEMPLATE = "templates/model_card.md"
_BEGIN = re.compile(r"<!-- policy-patch:begin sha256=([0-9a-f]{64}) -->")
_END = "<!-- policy-patch:end -->"
_OWNED = ("base_model", "base_model_relation", "library_name", "pipeline_tag", "model-index")
_LARGEST_METADATA = 2**18  # characters; chosen by us: our cards have far less, and parsing more takes many seconds
_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]<>|#~&$])")


class PolicyPatchCardData(ModelCardData):
    """The metadata of a patch's card, which the Hub reads.

    Args:
        base_model (`str`, *optional*):
            The base. It is left out, with its relation, if it cannot be a Hub id: a folder, or a model of the lab.
        risk (`str`, *optional*):
            The risk that the patch lowers. It becomes a tag; risks joined by `+` become one tag each.
        tags (`list[str]`, *optional*):
            More tags, after the tags of this package.
        license (`str`, *optional*):
            Licence of the patch.
        language (`str` or `list[str]`, *optional*):
            Language or languages of the patch.
        datasets (`str` or `list[str]`, *optional*):
            Hub ids of the data that the patch was trained on.
        model_name (`str`, *optional*):
            Name of the patch in its `model-index`; needed with `eval_results`.
        eval_results (`list[EvalResult]`, *optional*):
            Figures for the `model-index`.
        **kwargs:
            Any other metadata.

    Example:

    ```python
    >>> PolicyPatchCardData(base_model="/models/mine", risk="gender_bias").to_dict()["tags"]
    ['policy-patch', 'safety', 'gender-bias']

    ```
    """

    def __init__(
        self,
        *,
        base_model: str | list[str] | None = None,
        risk: str | None = None,
        tags: Sequence[str] | None = None,
        license: str | None = None,
        language: str | list[str] | None = None,
        datasets: str | list[str] | None = None,
        model_name: str | None = None,
        eval_results: list[EvalResult] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(base_model, str) and not is_hub_id(base_model):
            base_model = None  # the Hub would refuse the metadata, or link to another person's model
        kwargs.setdefault("library_name", LIBRARY_NAME)
        kwargs.setdefault("pipeline_tag", "text-generation")
        relation = kwargs.pop("base_model_relation", "adapter")
        super().__init__(
            base_model=base_model,
            tags=[*TAGS, *_risk_tags(risk), *([tags] if isinstance(tags, str) else tags or [])],
            license=license,
            language=language,
            datasets=datasets,
            model_name=model_name,
            eval_results=eval_results,
            base_model_relation=relation if base_model else None,
            **kwargs,
        )


def model_card(
    config: PolicyPatchConfig,
    evaluation: EvaluationReport | Mapping[str, Any] | None,
    *,
    repo_id: str | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
    tokenizer_name: str | None = None,
    dataset_id: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    base_is_no_folder: bool = False,
    named: str | None = None,
) -> str:
    """Return the text of a patch's `README.md`.

    The body stands between two marks. The first contains a hash of the body, which tells [`merge_card`] whether someone
    edited it. Values are escaped: none can end a table, a code block or the metadata, or run as template code.

    Args:
        config ([`PolicyPatchConfig`]):
            Configuration of the patch.
        evaluation ([`EvaluationReport`] or `dict`, *optional*):
            The evaluation of the patch, or its parsed `evaluation.json`. Without one the card says that the patch was
            not evaluated.
        repo_id (`str`, *optional*):
            Hub id of the repository to which the patch is published.
        tags (`Sequence[str]`, *optional*, defaults to `()`):
            More tags.
        license (`str`, *optional*):
            Licence of the patch.
        tokenizer_name (`str`, *optional*):
            Hub id or folder of the tokenizer, if it is not in the base's repository or folder.
        dataset_id (`str`, *optional*):
            Hub id of the data set from which the prompts of the evaluation come.
        subfolder (`str`, *optional*):
            Folder of the patch in the repository.
        revision (`str`, *optional*):
            Branch of the patch in the repository. Defaults to the main branch.
        base_is_no_folder (`bool`, *optional*, defaults to `False`):
            The base is a model on the Hub, even if there is a local folder of its name.
        named (`str`, *optional*):
            Without `repo_id`: the title, and the name or folder from which the card's code loads the patch, such as
            `lab:toxicity`.

    Raises:
        EvaluationError: `evaluation` is not a complete report, or `dataset_id` is no Hub id.
    """
    report = as_report(evaluation)
    results = model_index_results(report, dataset_id=dataset_id) if report is not None else []
    place = repo_id or named
    name = _one_line(place.rstrip("/").rsplit("/", 1)[-1]) if place else "policy patch"
    data = PolicyPatchCardData(
        base_model=config.base_model_name_or_path,
        risk=config.risk,
        tags=tags,
        license=license,
        model_name=name if results else None,
        eval_results=results or None,
    )
    base_on_hub = (can_be_hub_id if base_is_no_folder else is_hub_id)(config.base_model_name_or_path)
    if base_on_hub:
        data.base_model, data.base_model_relation = config.base_model_name_or_path, "adapter"
    body = _rendered(
        config=config,
        name=name,
        repo_id=repo_id,
        named=named,
        tokenizer_name=tokenizer_name,
        subfolder=subfolder,
        patch_revision=revision,
        base_on_hub=base_on_hub,
        evaluation=_evaluation_facts(report) if report is not None else None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n<!-- policy-patch:begin sha256={_hash(body)} -->{body}{_END}\n"


def _rendered(**values: Any) -> str:
    """Return the body of a card: one line break, the template filled in, one line break."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    # `finalize` gets every value before it is written, so the template cannot forget to escape one. Autoescape is off,
    # because it is for HTML and would show `&#39;` in code.
    environment = SandboxedEnvironment(
        autoescape=False, finalize=_escaped, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(python=_python_literal, shell=_shell_word, verbatim=_Ready)
    template = resources.files("policy_patch.model_card").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    text = environment.from_string(template).render(values)
    return "\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _evaluation_facts(report: EvaluationReport) -> dict[str, Any]:
    """Return the facts of an evaluation that the template shows, with figures as texts."""
    settings, metrics = report.settings, metrics_on_card(report)
    return {
        "risk": report.risk,
        "notes": metric_notes(report.risk),
        "perplexity_model": report.perplexity_model,
        "num_prompts": settings.num_prompts,
        "num_safe_prompts": settings.num_safe_prompts,
        "num_samples": settings.num_samples,
        "max_new_tokens": settings.max_new_tokens,
        "top_p": f"{settings.top_p:g}",
        "temperature": f"{settings.temperature:g}",
        "seed": settings.seed,
        "num_resamples": settings.num_resamples,
        "safe_prompt": settings.safe_prompt,
        "prompts_sha256": settings.prompts_sha256,
        "environment": [f"{name} {value}" for name, value in report.environment.items()],
        "empty": [f"{name} {result.num_empty:,}" for name, result in report.systems.items() if result.num_empty],
        "num_answers": f"{settings.num_prompts * settings.num_samples:,}",
        "models": [f"{name}: {result.model}" for name, result in report.systems.items()],
        "metrics": [
            metric.title if metric.lower_is_better else f"{metric.title} (higher is better)" for metric in metrics
        ],
        "scorers": [
            {
                "name": scorer.name,
                "filtered": scorer.filtered_training_pairs,
                "lexical": scorer.kind == "lexical",
                "rows": [
                    [system, *(_Ready(figure_on_card(report, system, metric, scorer)) for metric in metrics)]
                    for system in report.systems
                ],
            }
            for scorer in report.scorers
        ],
    }


# Values on the card


class _Ready(str):
    """A text that must not be escaped: a literal, a quoted word or a checked id."""

    __slots__ = ()


def _one_line(value: Any) -> str:
    """Return a value as one line of printable characters, without comment marks and control of text direction."""
    text = " ".join(str(value).split())
    return "".join(char for char in text if char.isprintable()).replace("<!--", "< !--").strip()


def _escaped(value: Any) -> str:
    if isinstance(value, _Ready):
        return value
    return _MARKDOWN_SIGNS.sub(r"\\\1", _one_line(value)) or "(empty)"  # bold text must not be empty


def _python_literal(value: Any) -> _Ready:
    return _Ready(json.dumps(_one_line(value), ensure_ascii=False))


def _shell_word(value: Any) -> _Ready:
    return _Ready(shlex.quote(_one_line(value)))


def _risk_tags(risk: str | None) -> list[str]:
    parts = [re.sub(r"[^\w.]+", "-", part.replace("_", "-")).strip("-") for part in (risk or "").split("+")]
    return [part for part in parts if part]


# Updating a card


def card_metadata(text: str) -> dict[str, Any]:
    """Return the metadata at the head of a card; empty if there is none, or none that can be read."""
    front = REGEX_YAML_BLOCK.match(text)
    return (_metadata(front[2]) if front else None) or {}


def merge_card(existing: str, new: str) -> str:
    """Update the generated part of an existing card, unless someone edited that part.

    The generated part is the text between the marks of [`model_card`], and in the metadata `base_model`,
    `base_model_relation`, `library_name`, `pipeline_tag` and `model-index`. Tags are joined, and missing keys are
    added. If `new` has no figures, the figures of an earlier evaluation are removed. If `new` names no `base_model`,
    the existing one stays. Nothing else changes: other keys, comments, text before and after the marks, line endings.

    Args:
        existing (`str`):
            The current card.
        new (`str`):
            The new result of [`model_card`].

    Returns:
        `str`: the updated card. `existing` itself if the marks are missing or occur twice, if the text between them was
        edited, or if the metadata cannot be read.
    """
    text = existing.removeprefix("\ufeff")
    front = REGEX_YAML_BLOCK.match(text)
    start = front.end() if front else 0
    block = _own_block(text[start:])
    old = _metadata(front[2]) if front else None if text.lstrip().startswith("---") else {}
    if block is None or old is None:
        return existing
    new_front = REGEX_YAML_BLOCK.match(new)
    new_block = _own_block(new[new_front.end() :] if new_front else new)
    assert new_front and new_block, "`new` is a card that `model_card` wrote"
    merged = _merged(old, _metadata(new_front[2]) or {})
    ending = "\r\n" if "\r\n" in text[start:][slice(*block)] else "\n"
    renewed = new[new_front.end() :][slice(*new_block)].replace("\n", ending)
    body = text[start:][: block[0]] + renewed + text[start:][block[1] :]
    return existing[: len(existing) - len(text)] + _front_matter(text, front, old, merged, ending) + body


def _hash(body: str) -> str:
    """Return the hash of a body. Line endings do not matter, because git and editors change them."""
    return hashlib.sha256(body.replace("\r\n", "\n").encode()).hexdigest()


def _own_block(text: str) -> tuple[int, int] | None:
    """Return start and end of the generated text, with its marks; None if it is missing, occurs twice or was edited."""
    begins = list(_BEGIN.finditer(text))
    if len(begins) != 1 or text.count(_END) != 1:
        return None
    begin, end = begins[0], text.index(_END)
    untouched = begin.end() <= end and _hash(text[begin.end() : end]) == begin[1]
    return (begin.start(), end + len(_END)) if untouched else None


def _metadata(text: str) -> dict[Any, Any] | None:
    if len(text) > _LARGEST_METADATA:
        return None
    try:
        values = parse_yaml(text, unique_keys=False)
    except Fault:
        return None
    if values is None:
        return {}
    return values if isinstance(values, dict) else None


def _merged(old: dict[Any, Any], new: dict[str, Any]) -> dict[Any, Any]:
    merged = {**old, **{key: value for key, value in new.items() if key in _OWNED or key not in old}}
    if "model-index" not in new:
        merged.pop("model-index", None)
    tags = old.get("tags") or []
    tags = list(tags) if isinstance(tags, list) else [tags]
    merged["tags"] = tags + [tag for tag in new["tags"] if tag not in tags]
    return merged


def _front_matter(
    text: str, front: re.Match[str] | None, old: dict[Any, Any], merged: dict[Any, Any], ending: str
) -> str:
    if front is None:
        return f"---\n{_dumped(merged)}\n---\n\n".replace("\n", ending)
    if merged == old:
        return text[: front.end()]
    ending = "\r\n" if front[1].endswith("\r\n") else "\n"
    lines = _edited(front[2].replace("\r\n", "\n"), old, merged)
    return front[1] + lines.replace("\n", ending) + front[3]


def _edited(text: str, old: dict[Any, Any], merged: dict[Any, Any]) -> str:
    """Return the YAML with the changed keys written anew; all other lines, comments included, stay as they were."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    names = [key.value for key, _ in pairs]
    lines = text.split("\n")
    starts = [key.start_mark.line for key, _ in pairs]
    edited = lines[: starts[0]] if starts else lines
    for name, start, stop in zip(names, starts, [*starts[1:], len(lines)]):
        end = stop
        if name in old and (name not in merged or old[name] != merged[name]):
            while end > start + 1 and re.match(r"\s*(#|$)", lines[end - 1]):
                end -= 1  # a comment or an empty line belongs to the key after it
            edited += _dumped({name: merged[name]}).split("\n") if name in merged else []
            start = end
        edited += lines[start:stop]
    added = {key: value for key, value in merged.items() if key not in old}
    result = "\n".join([*edited, *([_dumped(added)] if added else [])])
    # Editing lines fails for anchors, several keys on one line and unusual line breaks: then all metadata is rewritten.
    return result if _metadata(result) == merged else _dumped(merged)


def _dumped(values: dict[Any, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip("\n")
