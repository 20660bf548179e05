"""Measures the risk figures of a served model on a sample of prompts. No weights of it are needed.

`drift.py` and `canary.py` decide which prompts are asked and what the figures are compared with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError
from policy_patch.recipes.recipe import Progress, ignore

if TYPE_CHECKING:
    import numpy as np

    from policy_patch.answers.endpoint import OpenAIEndpoint
    from policy_patch.answers.protocol import Sampling
    from policy_patch.evaluation import PerplexityModel, Risk


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How the answers of a served model are measured.

    Args:
        risk ([`Risk`]):
            The risk.
        scorers (`list`):
            Its scorers or judges.
        sampling ([`Sampling`]):
            How answers are sampled.
        perplexity ([`PerplexityModel`], *optional*):
            The model that tells gibberish from text. Without it, `unknown_gibberish` says what happens.
        surprise_limit (`float`, *optional*):
            Loss per token, in nats, above which an answer is gibberish.
        unknown_gibberish (`str`, *optional*):
            Message of the error for a risk that needs to know which answers are gibberish. None: only empty and
            repetitive answers count as gibberish.
    """

    risk: "Risk"
    scorers: Sequence[Any]
    sampling: "Sampling"
    perplexity: "PerplexityModel | None" = None
    surprise_limit: float | None = None
    unknown_gibberish: str | None = None

    def figures(
        self,
        endpoint: "OpenAIEndpoint",
        asked: Mapping[str, Sequence[str]],
        folder: Path | None = None,
        on_progress: Progress = ignore,
    ) -> "dict[tuple[str, str], np.ndarray]":
        """Ask a served model and return (scorer, metric) -> `(prompts,)` float64.

        Args:
            endpoint ([`OpenAIEndpoint`]):
                The served model.
            asked (`Mapping[str, Sequence[str]]`):
                `"prompts"`, and maybe `"safe_prompts"`, -> the prompts.
            folder (`Path`, *optional*):
                Folder for the answers. A call that broke off continues from them.
            on_progress (`Callable[[str, int, int], None]`, *optional*):
                Called with the stage, the answers done and the total.

        Raises:
            EndpointError: the server cannot be reached; the answers so far are kept.
            ConfigError: the risk needs a perplexity model.
            EvaluationError: a scorer does not return probabilities.
        """
        from policy_patch.answers.stored_answers import stored_answers
        from policy_patch.answers.thoughts import final_answer

        answers: dict[str, list[list[str]]] = {"prompts": [], "safe_prompts": []}
        for part, prompts in asked.items():
            found = stored_answers(
                endpoint, prompts, self.sampling, output_dir=None if folder is None else folder / part,
                on_progress=partial(on_progress, f"sampling: {endpoint.name}, {part.replace('_', ' ')}"),
            )  # fmt: skip
            answers[part] = [[final_answer(answer.text) for answer in row] for row in found]
        return self._measured(asked, answers)

    def check(self) -> None:
        """Measure an empty answer, so that a perplexity model that lacks is told before a server is asked.

        Raises:
            ConfigError: the risk needs a perplexity model.
        """
        nothing = [[""] * self.sampling.num_samples]
        self._measured({"prompts": [""]}, {"prompts": nothing, "safe_prompts": []})

    def _measured(
        self, asked: Mapping[str, Sequence[str]], answers: Mapping[str, list[list[str]]]
    ) -> "dict[tuple[str, str], np.ndarray]":
        from policy_patch.evaluation.observed import Observed

        observed = Observed(
            asked["prompts"], answers["prompts"], self._unusable(asked["prompts"], answers["prompts"]),
            asked.get("safe_prompts", ()), answers["safe_prompts"],
            self._unusable(asked.get("safe_prompts", ()), answers["safe_prompts"]), None,
        )  # fmt: skip
        return {
            (scorer.name, metric): values
            for scorer in self.scorers
            for metric, values in self.risk.measure(observed, scorer).per_prompt.items()
        }

    def _unusable(self, prompts: Sequence[str], answers: list[list[str]]) -> Any:
        import numpy as np

        from policy_patch.answers.perplexity import conditional_nll
        from policy_patch.evaluation.gibberish import unusable

        shape = (len(answers), self.sampling.num_samples)
        if self.perplexity is None and self.unknown_gibberish is not None:
            return _Unknown(self.unknown_gibberish)
        texts = [text for row in answers for text in row]
        nll, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
        if self.perplexity is not None and texts:
            repeated = [prompt for prompt in prompts for _ in range(self.sampling.num_samples)]
            nll, tokens = conditional_nll(
                self.perplexity.model, self.perplexity.tokenizer, repeated, texts,
                batch_size=self.sampling.batch_size,
            )  # fmt: skip
        return unusable(texts, nll, tokens, self.surprise_limit).reshape(shape)


class _Unknown:
    """Stands for which answers are gibberish where that is not known: whoever looks is told so."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __array__(self, *args: Any, **options: Any) -> "np.ndarray":
        raise ConfigError(self._message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__array"):  # numpy looks for other ways to read an array first
            raise AttributeError(name)
        raise ConfigError(self._message)

    def __invert__(self) -> Any:
        raise ConfigError(self._message)


def name_model(endpoint: "OpenAIEndpoint", model: str | None) -> None:
    """Set the model of an endpoint: the given one, or the only one that its server lists.

    Raises:
        ConfigError: it lists several.
        EndpointError: it cannot be reached.
    """
    from policy_patch.answers.next_tokens import served_models

    if model is None:
        names = served_models(endpoint)
        if len(names) != 1:
            listed = ", ".join(one[:100] for one in names[:20] if one.isprintable()) or "none"
            raise ConfigError(f"{endpoint.address} lists {len(names)} models ({listed}); say which with `model`.")
        model = names[0]
    endpoint.model = model
    endpoint.name = f"{model} at {endpoint.address}" + (", chat" if endpoint.chat else "")
