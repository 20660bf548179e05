"""Compares two served versions on the same prompts before the second one replaces the first.

The servers are asked as by `evaluate --endpoint`; what better and worse mean is in `policy_patch.release.canary`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, DataError
from policy_patch.recipes.evaluate import loaded
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.prompts import asked_of, look_alikes_of
from policy_patch.recipes.recipe import Note, Progress, ignore
from policy_patch.recipes.served_options import ServedOptions
from policy_patch.recipes.served_sample import Measuring, name_model

if TYPE_CHECKING:
    from policy_patch.answers.endpoint import OpenAIEndpoint
    from policy_patch.evaluation import Risk
    from policy_patch.release.canary import CanaryReport


@checked
class CanaryRecipe(ServedOptions):
    """Compares a candidate version with the current one, both served, on the same prompts and with the same seeds.

    Args:
        current, candidate (`str`):
            The two served models: `"openai:<model>@<address>"`, `"chat:..."`, or an address whose server lists one
            model. Join the addresses of several replicas by commas.
        risk (`str`, *optional*, defaults to `"toxicity"`):
            The risk to measure.
        num_samples, max_new_tokens, top_p, temperature (*optional*):
            How answers are sampled. Default to the risk's own settings.
        seed (`int`, *optional*, defaults to `0`):
            Seed of samples, resamples and permutations.
        output_dir (`str`, *optional*, defaults to `"canary-answers"`):
            Folder that keeps the answers until the comparison is done, so that a call that broke off continues.
        prompts, scorers and more (*optional*):
            As in [`ServedOptions`].

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is impossible.
    """

    current: str = option(help="The current version at its server: openai:<model>@<address>, or an address.")
    candidate: str = option(help="The candidate at its server.")
    risk: str = option("toxicity", "toxicity, gender_bias, harmfulness or one of your own.")
    num_samples: int | None = option(None, "Samples per prompt. Default: by risk.", least=1)
    max_new_tokens: int | None = option(None, "Longest sample, in tokens. Default: by risk.", least=1)
    top_p: float | None = option(None, "Nucleus to sample from. Default: by risk.", above=0, most=1)
    temperature: float | None = option(None, "Divides the logits. Default: by risk.", above=0)
    seed: int = option(0, "Seed of samples, resamples and permutations.", least=0)
    output_dir: str = option("canary-answers", "Keeps the answers until the comparison is done.")

    def run(self, *, on_progress: Progress | None = None, on_note: Note | None = None) -> "CanaryReport":
        """Ask both servers and return the comparison.

        Args:
            on_progress, on_note (`Callable`, *optional*):
                As in [`EvaluateRecipe.run`].

        Returns:
            `CanaryReport`.

        Raises:
            EndpointError: a server does not answer; the answers so far are kept, and the same call continues.
            ConfigError, DataError, EvaluationError: the recipe names something that does not exist or does not fit.
        """
        from policy_patch.evaluation.risks import risk_named
        from policy_patch.release.canary import CanaryReport, compare_versions

        risk = risk_named(self.risk)
        asked = self._asked(risk)
        measuring = Measuring(
            risk=risk, scorers=loaded("scorers", self.scorers or risk.scorers, risk), sampling=self._sampling(risk),
            perplexity=self.loaded_perplexity_model(),
        )  # fmt: skip
        found, names = [], []
        for role in ("current", "candidate"):
            endpoint = self._endpoint(getattr(self, role))
            names.append(endpoint.name)
            found.append(measuring.figures(endpoint, asked, Path(self.output_dir) / role, on_progress or ignore))
        figures = compare_versions(*found, risk.metrics, seed=self.seed)
        for role in ("current", "candidate"):  # a name may stand for another version next time
            shutil.rmtree(Path(self.output_dir) / role, ignore_errors=True)
        return CanaryReport(current=names[0], candidate=names[1], risk=risk.name, figures=figures)

    def _asked(self, risk: "Risk") -> dict[str, list[str]]:
        if self.num_prompts < 2:
            raise ConfigError(f"`num_prompts={self.num_prompts}`: a comparison needs at least 2 prompts.")
        source = self.prompts or risk.source_of("test")
        if source is None:
            raise DataError(f"`prompts` is missing: there are none for {risk.name}. Say what to compare on.")
        asked = {"prompts": asked_of(source, risk.name)[: self.num_prompts]}
        safe = self.safe_prompts or risk.source_of("safe_test")
        if safe is not None and risk.asks_safe_prompts:
            asked["safe_prompts"] = look_alikes_of(safe)[: self.num_prompts]
        return asked

    def _sampling(self, risk: "Risk") -> Any:
        from policy_patch.answers.protocol import Sampling

        names = ("num_samples", "max_new_tokens", "top_p", "temperature")
        given = {name: getattr(self, name) for name in names}
        chosen = {name: getattr(risk, name) if value is None else value for name, value in given.items()}
        return Sampling(**chosen, batch_size=32, seed=self.seed)

    def _endpoint(self, spec: str) -> "OpenAIEndpoint":
        from policy_patch.answers.addresses import addresses_in, split_spec
        from policy_patch.answers.endpoint import OpenAIEndpoint

        is_address = spec.startswith(("http://", "https://"))
        kind, model, urls = ("openai", "", spec) if is_address else split_spec(spec)
        endpoint = OpenAIEndpoint(
            model, addresses_in(urls), chat=kind == "chat", concurrency=self.concurrency, timeout=self.timeout,
        )  # fmt: skip
        name_model(endpoint, model or None)
        return endpoint
