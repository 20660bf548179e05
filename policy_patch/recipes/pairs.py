"""`PairsRecipe`: makes preference pairs from a base, its safer teacher and prompts, and writes them to a file.

`build_preference_pairs` decides which pairs are kept. `TrainRecipe` trains on them.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, DataError
from policy_patch.recipes.models import (
    ANSWERING_HELP,
    DTYPES,
    MODEL_HELP,
    check_can_load,
    is_endpoint,
    load_answering,
    same_tokenizer,
)
from policy_patch.recipes.names import check_model, check_prompts, check_scorer
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.prompts import PROMPTS_HELP, asked_of
from policy_patch.recipes.recipe import Note, Progress, Recipe, ignore

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policy_patch.answers.answering import Answering

SCORER_HELP = (
    "The scorer that filters the pairs. Toxicity: `lexical` (alt-profanity-check: words, not meaning), `hf:<model>` "
    "(any text classifier), `fitted:<file.csv>`, `lab-insults`. Gender bias: `gender-words`, `gender-words:<list>`. "
    "Harmfulness: `compliance` (no refusal phrase)."
)
DEVICE_HELP = "Device of the models: cpu, cuda, ... Default: an accelerator if there is one."
DTYPE_HELP = "Dtype of the models' weights: auto, float32, ..."


@checked
class PairSettings:
    """Settings of sampling and filtering. In a `TrainRecipe` they are part of the section `data`.

    Args:
        max_chosen_score (`float`, *optional*, defaults to `0.2`):
            Highest score of a chosen answer.
        min_margin (`float`, *optional*, defaults to `0.3`):
            Smallest difference between the scores of the rejected and the chosen answer.
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            Largest number of pairs per prompt.
        num_samples (`int`, *optional*, defaults to `8`):
            Answers of each model per prompt.
        max_new_tokens (`int`, *optional*, defaults to `24`):
            Length limit of an answer, in tokens.
        top_p (`float`, *optional*, defaults to `0.9`):
            Probability mass of nucleus sampling.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature; it divides the logits.
        batch_size (`int`, *optional*, defaults to `64`):
            Answers per call of `generate`.
        swap_genders (`bool`, *optional*, defaults to `False`):
            Add three gender-swapped variants of every pair whose rejected answer has a gender word.
    """

    max_chosen_score: float = option(0.2, "Highest score of a chosen answer.", least=0, most=1)
    min_margin: float = option(
        0.3, "Smallest difference between the scores of the rejected and the chosen answer.", least=0, most=1
    )
    pairs_per_prompt: int = option(1, "Largest number of pairs per prompt.", least=1)
    num_samples: int = option(8, "Answers of each model per prompt.", least=1)
    max_new_tokens: int = option(24, "Length limit of an answer, in tokens.", least=1)
    top_p: float = option(0.9, "Probability mass of nucleus sampling.", above=0, most=1)
    temperature: float = option(1.0, "Sampling temperature; it divides the logits.", least=0)
    batch_size: int = option(64, "Answers per call of `generate`.", least=1)
    swap_genders: bool = option(
        False,
        "Add gender-swapped variants of pairs, so that a patch against gender bias treats both genders alike.",
    )

    def sampling(self) -> dict[str, Any]:
        """Return the settings of [`PairSettings`] by name, without those of a subclass."""
        return {entry.name: getattr(self, entry.name) for entry in fields(PairSettings)}

    def check_temperature(self, key: str, *models: str | None) -> None:
        """Raise `ConfigError` for a temperature of 0, unless all models are endpoints, which accept it.

        Args:
            key (`str`):
                Full path of the key, for the error.
            models (`str`, *optional*):
                Names of the models that are sampled.
        """
        if self.temperature == 0 and not all(name is not None and is_endpoint(name) for name in models):
            raise ConfigError(
                f"`{key}={self.temperature}`: expected a number above 0. For nearly greedy answers give a tiny one, "
                "such as 1e-6."
            )


@dataclass(frozen=True, kw_only=True)
class PairsResult:
    """The result of a `PairsRecipe`.

    Args:
        output (`str`):
            The file of pairs.
        pairs (`datasets.Dataset`):
            The rows of the file.
        counts (`dict[str, int]`):
            Numbers of pairs kept, and dropped for each reason; see [`PairCounts`].
    """

    output: str
    pairs: "Dataset"
    counts: dict[str, int]


@checked
class PairsRecipe(PairSettings, Recipe):
    """Samples answers of a base and of its safer teacher, scores them, and keeps the pairs that differ clearly.

    The answers are kept in `<output>.answers`. If a run is stopped, a second run continues from them; other thresholds
    need no new sampling. Under a launcher, all processes share the work, and one of them writes the pairs.

    Args:
        base (`str`):
            Hub id, folder or endpoint of the model to be patched; `lab:base` comes with the package.
        teacher (`str`):
            Hub id, folder or endpoint of the safer model.
        risk (`str`, *optional*):
            The risk that the pairs are about; a risk of your own works too. It decides which prompts and which scorer
            are used if you give none.
        prompts (`str`, *optional*):
            Source of the prompts: a file, a dataset on the Hub, or the name of a set. Defaults to the risk's own
            prompts for training.
        num_prompts (`int`, *optional*):
            Use only the first `num_prompts` prompts. Defaults to all.
        output (`str`):
            The file to write, JSON lines.
        scorer (`str`, *optional*):
            Name of the scorer; see [`load_scorer`]. Defaults to the one that the risk names for pairs, and to
            `"lexical"` without a risk.
        device (`str`, *optional*):
            Device of the models, such as `"cuda"`. Defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the models' weights.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sampling.
        **settings:
            The settings of [`PairSettings`].

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is impossible.

    Example:

    ```python
    recipe = PairsRecipe(base="lab:base", teacher="lab:teacher", prompts="lab:toxicity/train", output="pairs.jsonl")
    print(recipe.run().counts)
    ```
    """

    base: str = option(help=f"{MODEL_HELP} {ANSWERING_HELP}")
    teacher: str = option(help="The safer model; the same kinds of names as for `--base`.")
    output: str = option(help="The file to write, JSON lines.")
    risk: str | None = option(None, "The risk of the pairs. It decides which prompts and scorer are the default.")
    prompts: str | None = option(None, f"{PROMPTS_HELP} Default: the risk's own, if it has any.")
    num_prompts: int | None = option(None, "Use only this many prompts, the first ones.", least=1)
    scorer: str | None = option(None, f"{SCORER_HELP} Default: the risk's, else `lexical`.")
    device: str | None = option(None, DEVICE_HELP)
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES)
    seed: int = option(0, "Seed of the sampling.", least=0)

    def check(self) -> None:
        """Check the names in the recipe. No model is loaded.

        Raises:
            ConfigError: a value is impossible.
            ModelLoadError, DataError, EvaluationError: a model, a file of prompts, a scorer or the risk does not exist,
                or there are no prompts.
        """
        self._checked()

    def _checked(self) -> tuple[str, str]:
        """Return where the prompts are and the name of the scorer."""
        from policy_patch.evaluation import load_scorer
        from policy_patch.evaluation.risks import risk_named

        self.check_temperature("temperature", self.base, self.teacher)
        for key in ("base", "teacher"):
            check_model(key, getattr(self, key), may_be_endpoint=True)
        risk = risk_named(self.risk) if self.risk else None
        prompts = self.prompts or (risk.source_of("train") if risk else None)
        if prompts is None:
            of_risk = f" {risk.name} has no prompts of its own." if risk else " Or give a `risk` that has its own."
            raise DataError(f"`prompts` is missing: say what the models should answer.{of_risk}")
        check_prompts("prompts", prompts)
        scorer = self.scorer or (risk.pair_scorer if risk else "lexical")
        check_scorer("scorer", scorer, load_scorer)
        return prompts, scorer

    def run(self, *, on_progress: Progress | None = None, on_note: Note | None = None) -> PairsResult:
        """Make the pairs and write them.

        Args:
            on_progress (`Callable[[str, int, int], None]`, *optional*):
                Called during each long stage with its name, the units done and the total. An exception that it raises
                ends the run.
            on_note (`Callable[[str], None]`, *optional*):
                Never called by this recipe; all recipes have this argument.

        Returns:
            [`PairsResult`].

        Raises:
            ConfigError, ModelLoadError, DataError, EvaluationError, HubError, EndpointError: something that the recipe
                names cannot be loaded, or no pair is left.
        """
        from policy_patch.data import save_preference_pairs
        from policy_patch.evaluation.risks import RISKS

        source, scorer = self._checked()
        of_scorer = (name for name, risk in RISKS.items() if risk.pair_scorer == scorer)
        prompts = asked_of(source, self.risk or next(of_scorer, None))[: self.num_prompts]
        check_can_load(self.base, self.teacher)
        base, tokenizer = load_answering(self.base, device=self.device, dtype=self.dtype)
        teacher, teacher_tokenizer = load_answering(self.teacher, device=self.device, dtype=self.dtype)
        pairs, counts = sample_pairs(
            (base, tokenizer), (teacher, teacher_tokenizer), prompts, settings=self, scorer=scorer,
            seed=self.seed, output_dir=f"{self.output}.answers", on_progress=on_progress or ignore,
        )  # fmt: skip
        if is_main_process():
            save_preference_pairs(pairs, self.output)
        return PairsResult(output=self.output, pairs=pairs, counts=counts)


def sample_pairs(
    base: "tuple[PreTrainedModel | Answering, PreTrainedTokenizerBase | None]",
    teacher: "tuple[PreTrainedModel | Answering, PreTrainedTokenizerBase | None]",
    prompts: Sequence[str],
    *,
    settings: PairSettings,
    scorer: str,
    seed: int,
    output_dir: str | os.PathLike,
    on_progress: Progress = ignore,
) -> tuple["Dataset", dict[str, int]]:
    """Return preference pairs, and the numbers of pairs kept and dropped.

    Args:
        base, teacher (`tuple`):
            A model and its tokenizer; or an endpoint and None.
        prompts (`Sequence[str]`):
            Prompts.
        settings (`PairSettings`):
            Settings of sampling and filtering.
        scorer (`str`):
            Name of the scorer.
        seed (`int`):
            Seed of the sampling.
        output_dir (`str` or `os.PathLike`):
            Folder that keeps the answers.
        on_progress (`Callable[[str, int, int], None]`, *optional*):
            Called with "sampling answers", the number of answers done and the total.

    Raises:
        DataError, EvaluationError, EndpointError: as [`build_preference_pairs`] and [`load_scorer`].
    """
    from policy_patch.data import add_counterfactuals, build_preference_pairs
    from policy_patch.evaluation import load_gender_words, load_scorer

    (base_model, tokenizer), (teacher_model, teacher_tokenizer) = base, teacher
    if tokenizer is not None and same_tokenizer(tokenizer, teacher_tokenizer):
        teacher_tokenizer = tokenizer
    counts: dict[str, int] = {}
    how = settings.sampling()
    swap_genders = how.pop("swap_genders")
    pairs = build_preference_pairs(
        base_model, teacher_model, tokenizer, prompts,
        scorer=load_scorer(scorer), teacher_tokenizer=teacher_tokenizer, seed=seed, output_dir=output_dir,
        on_progress=lambda done, total: on_progress("sampling answers", done, total),
        on_counts=lambda found: counts.update(asdict(found)),
        **how,
    )  # fmt: skip
    if swap_genders:
        pairs, before = add_counterfactuals(pairs, load_gender_words("all").pairs), len(pairs)
        counts["with_genders_swapped"] = len(pairs) - before
    return pairs, counts


def is_main_process() -> bool:
    """Return whether this process is the main one, which writes files and messages, of those under a launcher."""
    return os.environ.get("RANK", "0") == "0"
