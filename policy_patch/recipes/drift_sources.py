"""Reads what a watch compares with: the patch, its release's report, the same prompts and scorers, and the probe.

Each is checked against the report, so that a wrong file is named before a server is asked. `drift.py` asks.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, DataError, EvaluationError
from policy_patch.recipes.prompts import asked_of, look_alikes_of
from policy_patch.recipes.recipe import Note

if TYPE_CHECKING:
    from policy_patch.answers.probe_file import ServedProbe
    from policy_patch.evaluation import Risk
    from policy_patch.hub.named_patch import NamedPatch
    from policy_patch.hub.opening import OpenedPatch
    from policy_patch.release.drift import ReleaseFigures
    from policy_patch.report.report import EvaluationReport


def patch_and_report(
    patch: str | None, report: str | None, lock: str | None = None
) -> "tuple[NamedPatch, EvaluationReport]":
    """Return a patch and the report of its release: the given one, or the one that lies beside it in the same commit.

    Args:
        patch (`str`, *optional*):
            Folder or Hub id, or with `lock` the name of a patch in the lock; None for the only one there.
        report (`str`, *optional*):
            The release's report.
        lock (`str`, *optional*):
            A lock file. The patch is then exactly what it pins.

    Raises:
        ConfigError: neither a patch nor a lock is given, or the lock has several patches and none is named.
        LockError, LockMismatchError: the lock cannot be read, or the patch is not what it pins.
        DataError: there is no report, or it is the report of another patch.
        PolicyPatchError: as `open_patch`, which also asks the policies in force, and `EvaluationReport`.
    """
    from policy_patch.hub.fetch import EVALUATION_NAME
    from policy_patch.hub.named_patch import NamedPatch
    from policy_patch.patch.vectors import vectors_hash
    from policy_patch.report.report import EvaluationReport

    name, model_id, opened = _opened(patch, lock, () if report else (EVALUATION_NAME,))
    place, content = opened.location, opened.files.get(EVALUATION_NAME)
    source = report or f"{EVALUATION_NAME} of {model_id}"
    if report is None and content is None:
        raise DataError(
            f"`{model_id}` has no {EVALUATION_NAME}, so there is nothing to compare with. Measure the patch with "
            "`policy-patch evaluate`, or give `report`."
        )
    found = EvaluationReport.load(report) if report else EvaluationReport.from_json(content.decode(), source)
    measured = {one.vectors_sha256 for one in found.patches}
    if measured and vectors_hash(opened.vectors) not in measured:
        raise DataError(
            f"`{source}` is the report of other vectors ({', '.join(one.name for one in found.patches)}), not of "
            f"`{model_id}`. Measure this patch with `policy-patch evaluate`."
        )
    return NamedPatch(name, opened.config, opened.vectors, place.repo_id, place.commit, place.folder), found


def _opened(patch: str | None, lock: str | None, optional: tuple[str, ...]) -> "tuple[str, str, OpenedPatch]":
    """Return the name of a patch, where it comes from, and the patch as read."""
    from policy_patch.hub.lock_file import read_lock
    from policy_patch.hub.locked_patches import open_locked
    from policy_patch.hub.named_patch import split_name
    from policy_patch.hub.opening import open_patch

    if lock is None:
        if patch is None:
            raise ConfigError("Say which patch should be there: `patch` (`--patch`), or a lock file (`--lock`).")
        name, model_id = split_name(patch)
        return name, model_id, open_patch(model_id, optional=optional)
    stack = read_lock(lock).stack
    found = [one for one in stack if patch in (None, one.name)]
    if len(found) != 1:
        raise ConfigError(
            f"`{lock}` pins {', '.join(one.name for one in stack)}; give the name of the one to watch, "
            f"`--patch {stack[0].name}`" + (f". It has no `{patch}`." if patch else ".")
        )
    return found[0].name, found[0].source, open_locked(found[0], lock, optional=optional)


def scorers_of(given: list[str], risk: "Risk", release: "ReleaseFigures") -> list[Any]:
    """Return the scorers of the release's report: those given, or those that are found by name."""
    reported = [record.name for record in release.report.scorers]
    if given:
        found = [risk.load_scorer(spec) for spec in given]
        strange = [scorer.name for scorer in found if scorer.name not in reported]
        if strange:
            raise DataError(
                f"`scorers`: {strange[0]!r} did not measure the release; the report has {', '.join(reported)}."
            )
        return found
    scorers: dict[str, Any] = {}
    for spec in (*risk.scorers, *reported):
        try:
            scorer = risk.load_scorer(spec)
        except EvaluationError:  # the name in a report is not always the name that loads it
            continue
        if scorer.name in reported:
            scorers.setdefault(scorer.name, scorer)
    if not scorers:
        raise DataError(f"The release was measured by {', '.join(reported)}. Give the same scorers by `scorers`.")
    return list(scorers.values())


def watched_figures(release: "ReleaseFigures", scorers: set[str], parts: set[str]) -> "ReleaseFigures":
    """Return the figures that can be measured at a server with these scorers and prompts."""
    asked = {key: metric for key, metric in release.metrics.items() if key[0] in scorers and metric.asked in parts}
    return replace(release, metrics=asked, values={key: release.values[key] for key in asked})


def same_prompts(part: str, source: str | None, risk: str, count: int, expected: str) -> list[str]:
    from policy_patch.report.records import texts_sha256

    if source is None:
        raise DataError(f"`{part}` is missing: the risk has none of its own. Give those that the report measured.")
    found = (look_alikes_of(source) if part == "safe_prompts" else asked_of(source, risk))[:count]
    if texts_sha256(found) != expected:
        raise DataError(
            f"`{part}={source!r}` holds other prompts than the release was measured on ({len(found)}; the report has "
            f"{count}). Drift is measured on the same prompts: give the file of the evaluation. (Rows whose "
            "own `label` says the opposite, harmless or harmful, are left out.)"
        )
    return found


def probe_of(given: str | None, patch: "NamedPatch", on_note: Note) -> "tuple[ServedProbe | None, str | None]":
    """Return the probe and the name of the system in it that has the patch."""
    from policy_patch.answers.probe_file import PROBE_NAME, read_probe

    if given is None and patch.folder is not None and (patch.folder / PROBE_NAME).is_file():
        given = str(patch.folder)
    if given is None:
        on_note(
            "No probe: only the answers are compared. `policy-patch export PATCH --format probe` writes one; give it "
            "by `probe`."
        )
        return None, None
    probe = read_probe(given)
    stacks = {name: [one.get("sha256") for one in patches] for name, patches in probe.stacks.items()}
    alone = [name for name, hashes in stacks.items() if hashes == [patch.sha256]]
    within = [name for name, hashes in stacks.items() if patch.sha256 in hashes]
    if not within:
        raise ConfigError(
            f"The probe `{given}` is of {probe.described(probe.expected)}, not of `{patch.name}` "
            f"{patch.config.patch_version} with these vectors. Record it anew: `policy-patch export PATCH --format "
            "probe`."
        )
    return probe, (alone or within)[0]
