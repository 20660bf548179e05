"""`PairsRecipe`: preference pairs from a base, its safer teacher and prompts, into a file.

Which pairs are kept is settled by `build_preference_pairs`; training on them is the business of `TrainRecipe`.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ConfigError, DataError
from policy_patch.recipes.models import ANSWERING_HELP, MODEL_HELP, is_endpoint, load_answering, same_tokenizer
from policy_patch.recipes.names import DTYPES, check_model, check_prompts, check_scorer
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.prompts import PROMPTS_HELP, prompts_of
from policy_patch.recipes.recipe import Note, Progress, Recipe, ignore

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policy_patch.answers.answering import Answering

SCORER_HELP = (
    "Who says how bad an answer is. Toxicity: `lexical` (alt-profanity-check: words, not meaning), `hf:<model>` (any "
    "text classifier), `fitted:<file.csv>`, `lab-insults`. Gender bias: `gender-words`, `gender-words:<list>`. "
    "Harmfulness: `compliance` (no refusal phrase)."
)
DEVICE_HELP = "cpu, cuda, ... Default: an accelerator if there is one."
DTYPE_HELP = "Type of the models' weights: auto, float32, ..."


@checked
class PairSettings:
    """How answers are sampled and which pairs are kept; in a `TrainRecipe` they stand in the section `data`.

    Args:
        max_chosen_score (`float`, *optional*, defaults to `0.2`):
            Highest score of a chosen answer.
        min_margin (`float`, *optional*, defaults to `0.3`):
            Least difference of the two scores of a pair.
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            Most pairs of one prompt.
        num_samples (`int`, *optional*, defaults to `8`):
            Answers of each model per prompt.
        max_new_tokens (`int`, *optional*, defaults to `24`):
            Longest answer, in tokens.
        top_p (`float`, *optional*, defaults to `0.9`):
            Nucleus to sample from.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits.
        batch_size (`int`, *optional*, defaults to `64`):
            Answers per call of `generate`.
        swap_genders (`bool`, *optional*, defaults to `False`):
            Add three gender-swapped variants of every pair.
    """

    max_chosen_score: float = option(0.2, "Highest score of a chosen answer.")
    min_margin: float = option(0.3, "Least difference of the two scores.")
    pairs_per_prompt: int = option(1, "Most pairs of one prompt.", least=1)
    num_samples: int = option(8, "Answers of each model per prompt.", least=1)
    max_new_tokens: int = option(24, "Longest answer, in tokens.", least=1)
    top_p: float = option(0.9, "Nucleus to sample from.", above=0, most=1)
    temperature: float = option(1.0, "Divides the logits.", least=0)
    batch_size: int = option(64, "Answers per call of `generate`.", least=1)
    swap_genders: bool = option(
        False, "Add pairs with the genders swapped: against gender bias, also in how unlike the two are treated."
    )

    def sampling(self) -> dict[str, Any]:
        """Return these settings by name, without those of a subclass."""
        return {entry.name: getattr(self, entry.name) for entry in fields(PairSettings)}

    def check_temperature(self, key: str, *models: str | None) -> None:
        """Raise `ConfigError` for a temperature of 0 unless all models are endpoints, whose hosts take it."""
        if self.temperature == 0 and not all(name is not None and is_endpoint(name) for name in models):
            raise ConfigError(f"`{key}={self.temperature}`: expected a number above 0; a tiny one is nearly greedy.")


@dataclass(frozen=True, kw_only=True)
class PairsResult:
    """What a `PairsRecipe` made.

    Args:
        output (`str`):
            The file.
        pairs (`datasets.Dataset`):
            Its rows.
        counts (`dict[str, int]`):
            How many pairs were kept and dropped, and why; see [`PairCounts`].
    """

    output: str
    pairs: "Dataset"
    counts: dict[str, int]


@checked
class PairsRecipe(PairSettings, Recipe):
    """Samples answers of a base and of its safer teacher, scores both, and keeps the pairs that differ clearly.

    The answers are kept in `<output>.answers`: a second run goes on where the first was stopped, and other thresholds
    need no new sampling. Of several processes that a launcher started all take part, and one writes.

    Args:
        base (`str`):
            Hub id, folder or endpoint of the model to be patched; `lab:base` comes with the package.
        teacher (`str`):
            The safer model.
        risk (`str`, *optional*):
            The risk that the pairs are about, one of your own among them. It says which prompts and which scorer are
            taken if you give none.
        prompts (`str`, *optional*):
            Where the prompts are: a file, a dataset on the Hub, or a set by its name. Defaults to the risk's own
            prompts for training.
        num_prompts (`int`, *optional*):
            Use the first ones only.
        output (`str`):
            The file to write, JSON lines.
        scorer (`str`, *optional*):
            Name of the scorer; see [`load_scorer`]. Defaults to the one that the risk names for pairs, and to
            `"lexical"` without a risk.
        device (`str`, *optional*):
            Where the models go. Defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Type of their weights.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the samples.
        **settings:
            And those of [`PairSettings`].

    Raises:
        ConfigError: an unknown key, a missing one, a wrong type or an impossible value.

    Example:

    ```python
    recipe = PairsRecipe(base="lab:base", teacher="lab:teacher", prompts="lab:toxicity/train", output="pairs.jsonl")
    print(recipe.run().counts)
    ```
    """

    base: str = option(help=f"{MODEL_HELP} {ANSWERING_HELP}")
    teacher: str = option(help="The safer model; names as of `--base`.")
    output: str = option(help="The file to write, JSON lines.")
    risk: str | None = option(None, "What the pairs are about; says which prompts and scorer are taken by default.")
    prompts: str | None = option(None, f"{PROMPTS_HELP} Default: the risk's own, if it has any.")
    num_prompts: int | None = option(None, "Use the first ones only.", least=1)
    scorer: str | None = option(None, f"{SCORER_HELP} Default: the risk's, else `lexical`.")
    device: str | None = option(None, DEVICE_HELP)
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES)
    seed: int = option(0, "Seed of the samples.", least=0)

    def check(self) -> None:
        """Check the names in the recipe; no model is loaded.

        Raises:
            ConfigError: an impossible value.
            ModelLoadError, DataError, EvaluationError: a model, a file of prompts, a scorer or a risk that is not
                there, or no prompts at all.
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
                Told of each long stage: its name, what is done and what there is to do. What it raises ends the run.
            on_note (`Callable[[str], None]`, *optional*):
                Told in a sentence what was found on the way; this recipe has nothing to say.

        Returns:
            [`PairsResult`].

        Raises:
            ConfigError, ModelLoadError, DataError, EvaluationError, HubError, EndpointError: something that is named
                cannot be had, or no pair is left.
        """
        from policy_patch.data import save_preference_pairs

        source, scorer = self._checked()
        prompts = prompts_of(source)[: self.num_prompts]
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
    """Return preference pairs, and the counts of what was kept and dropped.

    Args:
        base, teacher (`tuple`):
            A model and its tokenizer; or an endpoint and None.
        prompts (`Sequence[str]`):
            Prompts.
        settings (`PairSettings`):
            How answers are sampled and which pairs are kept.
        scorer (`str`):
            Name of the scorer.
        seed (`int`):
            Seed of the samples.
        output_dir (`str` or `os.PathLike`):
            Keeps the answers.
        on_progress (`Callable[[str, int, int], None]`, *optional*):
            Told of the sampling.
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
    """Whether this process is the one that writes and speaks, of several that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
