"""Watches a served patch: asks the probe and a sample of the release's prompts, and appends the look to a history.

What counts as worse is decided in `policy_patch.release.drift`; `canary.py` compares two served versions once.
"""

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, DataError, EndpointError
from policy_patch.files.folder_lock import only_writer
from policy_patch.recipes.drift_sources import patch_and_report, probe_of, same_prompts, scorers_of, watched_figures
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.recipe import Note, Progress, ignore
from policy_patch.recipes.served_options import ServedOptions
from policy_patch.recipes.served_sample import Measuring, name_model

if TYPE_CHECKING:
    from policy_patch.answers.endpoint import OpenAIEndpoint
    from policy_patch.evaluation import Risk
    from policy_patch.release.drift import ReleaseFigures
    from policy_patch.release.drift_history import DriftLook


@checked
class DriftRecipe(ServedOptions):
    """Looks at a served patch once, or again and again, and compares its risk figures with those of its release.

    Args:
        url (`str`):
            Address of the server up to and including `/v1`.
        patch (`str`, *optional*):
            Folder or Hub id of the patch that should be there; its `evaluation.json` has the release's figures. With
            `lock`, the name of a patch in the lock; not needed if the lock has one patch only.
        lock (`str`, *optional*):
            Lock file of the deployment: the patch is exactly the one that it pins. [`watch`] follows the lock.
        model (`str`, *optional*):
            Name of the model at the server. Defaults to the only one that it lists.
        chat (`bool`, *optional*, defaults to `False`):
            Ask by chat instead of completions.
        replicas (`list[str]`, *optional*):
            Addresses of more servers of the same model: each is probed, and they share the prompts.
        probe (`str`, *optional*):
            A `policy_patch_probe.json` or the folder that holds it. Defaults to the one in the patch's folder, if there
            is one.
        bits (`int`, *optional*, defaults to `16`):
            Bits of the engine's weights, for the probe: 16, 8 or 4.
        report (`str`, *optional*):
            The release's `evaluation.json`. Defaults to the patch's.
        system (`str`, *optional*):
            System of the report to compare with. Defaults to `served` if it was measured, else `patch`.
        history (`str`, *optional*, defaults to `"drift.jsonl"`):
            File to which each look appends a line. Answers of a look that broke off are kept beside it.
        alpha (`float`, *optional*, defaults to `0.05`):
            Probability, at most, of an alarm without drift in all `looks`.
        looks (`int`, *optional*, defaults to `1000`):
            Looks over which `alpha` is spent.
        prompts, scorers and more (*optional*):
            As in [`ServedOptions`]. The hash of the prompts is compared with the report's.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is impossible.
    """

    url: str = option(help="Address of the server, up to and including /v1.")
    patch: str | None = option(None, "The patch that should be there: folder or Hub id, or its name in --lock.")
    lock: str | None = option(None, "Lock file of the deployment; the patch is the one that it pins.")
    model: str | None = option(None, "Name of the model there. Default: the only one it lists.")
    chat: bool = option(False, "Ask by chat instead of completions.", switch=True)
    replicas: list[str] = option([], "Addresses of more servers of the same model.")
    probe: str | None = option(None, "policy_patch_probe.json, or the folder with one. Default: the patch's, if any.")
    bits: int = option(16, "For the probe: 16, half precision or more; 8 or 4: a quantised engine.")
    report: str | None = option(None, "The release's evaluation.json. Default: the patch's.")
    system: str | None = option(None, "System of the report to compare with. Default: served if there, else patch.")
    history: str = option("drift.jsonl", "File to which each look appends a line.")
    alpha: float = option(0.05, "Probability, at most, of an alarm without drift in all looks.", above=0, most=0.5)
    looks: int = option(1000, "Looks over which alpha is spent.", least=1)

    def run(self, *, on_progress: Progress | None = None, on_note: Note | None = None) -> "DriftLook":
        """Look once, append the look to the history, and return it.

        A server that does not answer is a look, too, with the verdict `"no answer"`; the answers so far are kept, and
        the next call continues from them.

        Args:
            on_progress, on_note (`Callable`, *optional*):
                As in [`EvaluateRecipe.run`].

        Returns:
            `DriftLook`.

        Raises:
            ConfigError, DataError, EvaluationError: what the recipe names does not fit the release's report.
            PatchNotFoundError, HubError: the patch or its report does not exist.
        """
        return Watched(self, on_note or ignore).look(on_progress or ignore)

    def watch(
        self, seconds: float, *, on_progress: Progress | None = None, on_note: Note | None = None
    ) -> Iterator["DriftLook"]:
        """Look again and again, and yield each look.

        Args:
            seconds (`float`):
                Pause between two looks.
            on_progress, on_note (`Callable`, *optional*):
                As in [`DriftRecipe.run`].
        """
        from policy_patch.hub.lock_history import lock_sha256

        watched, lock = None, None
        while True:
            now = None if self.lock is None else lock_sha256(self.lock)
            if watched is None or now != lock:  # after an upgrade or a roll-back, another release is watched
                watched, lock = Watched(self, on_note or ignore), now
            yield watched.look(on_progress or ignore)
            time.sleep(seconds)


class Watched:
    """A release and what watches it, read and checked once.

    Args:
        recipe ([`DriftRecipe`]):
            The recipe.
        on_note (`Callable[[str], None]`):
            Called with one sentence about what is not watched.
    """

    def __init__(self, recipe: DriftRecipe, on_note: Note) -> None:
        from policy_patch.evaluation.risks import risk_named
        from policy_patch.release.drift import release_figures
        from policy_patch.release.drift_rule import DriftRule

        self.recipe, self.on_note = recipe, on_note
        self.patch, report = patch_and_report(recipe.patch, recipe.report, recipe.lock)
        self.risk: Risk = risk_named(report.risk)
        whole = release_figures(report, recipe.system)
        self.scorers = scorers_of(recipe.scorers, self.risk, whole)
        self.texts = self._texts(whole)
        self.release = watched_figures(whole, {scorer.name for scorer in self.scorers}, set(self.texts))
        self.rule = DriftRule(alpha=recipe.alpha, looks=recipe.looks)
        self._check_size()
        self.probe, self.probe_system = probe_of(recipe.probe, self.patch, on_note)
        self.measuring = Measuring(
            risk=self.risk, scorers=self.scorers, sampling=self._sampling(),
            perplexity=recipe.loaded_perplexity_model(),
            surprise_limit=report.settings.surprise_limit,
            unknown_gibberish=(
                f"The risk {report.risk!r} counts gibberish, and the release was measured with the perplexity model "
                f"`{report.perplexity_model}`. Give it by `perplexity_model`."
            ),
        )  # fmt: skip
        if self.measuring.perplexity is None:
            self.measuring.check()
        self._is_rule_told = False

    def look(self, on_progress: Progress = ignore) -> "DriftLook":
        """Look once and append the look to the history."""
        from policy_patch.release.drift import judge_figures, next_places, verdict_of
        from policy_patch.release.drift_history import NO_ANSWER, append_look, of_release, read_history

        with self._alone():
            looks = read_history(self.recipe.history)
            number = len(of_release(looks, self.release.identity)) + 1
            endpoint = self._endpoint()
            try:
                name_model(endpoint, self.recipe.model)
                places = {part: next_places(looks, self.release, self.recipe.num_prompts, part) for part in self.texts}
                probe = self._probed(endpoint.model)
                folder = self._folder(endpoint, number)
                found = self._measured(endpoint, places, number, folder, on_progress)
            except EndpointError as error:
                look = self._line(endpoint, number, NO_ANSWER, [str(error)])
                append_look(self.recipe.history, look)
                return look
            figures = judge_figures(found, places, self.release, looks, self.rule)
            look = replace(
                self._line(endpoint, number, *verdict_of(figures, probe)), probe=probe, figures=figures,
                first={part: where[0] for part, where in places.items()}, values=_rounded(found),
            )  # fmt: skip
            append_look(self.recipe.history, look)
            shutil.rmtree(folder, ignore_errors=True)
        return look

    def _measured(
        self,
        endpoint: "OpenAIEndpoint",
        places: Mapping[str, list[int]],
        number: int,
        folder: Path,
        on_progress: Progress,
    ) -> dict[tuple[str, str], Any]:
        asked = {
            part: [self.texts[part][self.release.order(part)[place]] for place in where]
            for part, where in places.items()
        }
        # Other random numbers at each look: an engine that takes seeds would repeat the release's answers.
        sampling = replace(self.measuring.sampling, seed=self.release.report.settings.seed + number)
        found = replace(self.measuring, sampling=sampling).figures(endpoint, asked, folder, on_progress)
        known = {key: found[key] for key in self.release.metrics if key in found}  # a server gives no next words
        if not known:
            raise DataError(
                "None of the release's figures can be measured at a server. Give other `scorers`, or rely on the probe "
                "alone: `policy-patch probe --watch`."
            )
        if not self._is_rule_told:
            self.on_note(self.rule.in_words(len(known)))
            self._is_rule_told = True
        return known

    def _line(self, endpoint: "OpenAIEndpoint", number: int, verdict: str, reasons: list[str]) -> "DriftLook":
        from policy_patch.release.drift_history import DriftLook

        return DriftLook(
            time=datetime.now(UTC).isoformat(timespec="seconds"), look=number, verdict=verdict, reasons=reasons,
            address=endpoint.address, model=endpoint.model, patch=self.patch.name,
            version=self.patch.config.patch_version, commit=self.patch.commit, sha256=self.patch.sha256,
            release=self.release.identity,
        )  # fmt: skip

    def _endpoint(self) -> "OpenAIEndpoint":
        from policy_patch.answers.endpoint import OpenAIEndpoint

        given = self.recipe
        return OpenAIEndpoint(
            given.model or "", [given.url, *given.replicas], chat=given.chat, concurrency=given.concurrency,
            timeout=given.timeout, max_retries=2,
        )  # fmt: skip

    def _probed(self, model: str) -> dict[str, Any] | None:
        from policy_patch.serving import probe

        if self.probe is None:
            return None
        given = self.recipe
        report = probe(
            given.url, self.probe, model=model, chat=given.chat, replicas=given.replicas, system=self.probe_system,
            bits=given.bits,
        )  # fmt: skip
        return report.facts()

    def _sampling(self) -> Any:
        from policy_patch.answers.protocol import Sampling

        settings = self.release.report.settings
        names = ("num_samples", "max_new_tokens", "top_p", "temperature", "batch_size", "seed")
        return Sampling(**{name: getattr(settings, name) for name in names})

    def _texts(self, release: "ReleaseFigures") -> dict[str, list[str]]:
        """Return the release's prompts, and its safe prompts if they are known."""
        given, settings = self.recipe, release.report.settings
        sources = {"prompts": given.prompts or self.risk.source_of("test")}
        hashes = {"prompts": settings.prompts_sha256, "safe_prompts": settings.safe_prompts_sha256}
        if settings.num_safe_prompts:
            sources["safe_prompts"] = given.safe_prompts or self.risk.source_of("safe_test")
        found = {}
        for part, source in sources.items():
            if source is None and part == "safe_prompts":
                self.on_note("The report has harmless look-alikes. Give `safe_prompts` to watch over-refusal, too.")
                continue
            found[part] = same_prompts(part, source, self.risk.name, release.num_asked(part), hashes[part])
        return found

    def _check_size(self) -> None:
        fewest, there = self.rule.fewest_prompts(len(self.release.metrics)), self.release.num_asked("prompts")
        if there < fewest:
            raise ConfigError(
                f"The release was measured on {there} prompts, and with fewer than {fewest} no drift can be shown at "
                f"`alpha={self.recipe.alpha:g}` over `looks={self.recipe.looks}`. Measure it on more prompts with "
                "`policy-patch evaluate`, or give fewer looks."
            )

    @cached_property
    def _answers(self) -> Path:
        history = Path(self.recipe.history)
        return history.with_name(f"{history.name}-answers")

    def _folder(self, endpoint: "OpenAIEndpoint", number: int) -> Path:
        """Return the folder for the answers of one look; another address or model has another one."""
        digest = hashlib.sha256(f"{endpoint.name}\n{self.release.identity}".encode()).hexdigest()[:8]
        return self._answers / f"{digest}-{number}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time look for this history."""
        try:
            self._answers.mkdir(parents=True, exist_ok=True)
            with only_writer(self._answers):
                yield
        except OSError as error:
            if isinstance(error, EndpointError):
                raise
            raise DataError(f"Cannot write beside the history `{self.recipe.history}`: {error}.") from error


def _rounded(found: Mapping[tuple[str, str], Any]) -> dict[str, dict[str, list[float]]]:
    values: dict[str, dict[str, list[float]]] = {}
    for (scorer, metric), row in found.items():
        values.setdefault(scorer, {})[metric] = [round(float(value), 6) for value in row]
    return values
