"""`EvaluateRecipe`: measures one risk with a patch, with the base alone, and with alternatives to the patch.

`policy_patch.evaluation` does the measuring. `StudyRecipe` measures several patches, risks and stacks together.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policy_patch.errors import ConfigError, DataError
from policy_patch.recipes.gated import asked_by_gate, check_other_risks, other_reports
from policy_patch.recipes.models import (
    ANSWERING_HELP,
    DTYPES,
    MODEL_HELP,
    REPLICAS_HELP,
    load_answering,
    load_model,
)
from policy_patch.recipes.names import (
    check_is_endpoint,
    check_lora,
    check_model,
    check_patch,
    check_prompts,
    check_risks_asked,
    check_scorer,
    under,
)
from policy_patch.recipes.opened import Opened, open_models, other_patches
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.pairs import DEVICE_HELP, DTYPE_HELP, is_main_process
from policy_patch.recipes.patched import MISMATCH_HELP, PATCHES_HELP, FoundPatches, find_patches
from policy_patch.recipes.perplexity import perplexity_model_of
from policy_patch.recipes.prompts import PROMPTS_HELP, asked_of, categories_of, look_alikes_of, prompts_of
from policy_patch.recipes.recipe import Note, Progress, Recipe, ignore
from policy_patch.report.system_names import SERVED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from policy_patch.evaluation.risks import Risk
    from policy_patch.evaluation.systems import System
    from policy_patch.report.report import EvaluationReport

WORK_NAME = "evaluation-answers"
SCORERS_HELP = (
    "What decides; the first is the main one. Toxicity: `lexical`, `hf:<classifier>`, `fitted:<file.csv>`, "
    "`lab-insults`. Gender bias: `pronouns`, `nouns`, `all` or a file of word pairs. Harmfulness: `refusal-phrases`, "
    "`guard:<model>`, `harmbench:<model>`, `classifier:<model>`, `openai:<model>@<address>`."
)


@checked
class MeasuringSettings:
    """The settings that [`EvaluateRecipe`] and [`StudyRecipe`] share: sampling, models and statistics.

    Args:
        allow_filtering_scorers (`bool`, *optional*, defaults to `False`):
            Use scorers that filtered the training pairs, too, and mark their figures.
        perplexity_model (`str`, *optional*):
            The model under which perplexity is measured. Defaults to the teacher, else to the base.
        num_prompts (`int`, *optional*):
            Use only the first `num_prompts` prompts. Defaults to all.
        num_samples (`int`, *optional*):
            Answers per prompt. Defaults to the risk's: 25 for toxicity, 10 for gender bias, 1 for harmfulness.
        max_new_tokens (`int`, *optional*):
            Length limit of an answer, in tokens. Defaults to the risk's: 20, 20 and 64.
        top_p (`float`, *optional*):
            Probability mass of nucleus sampling. Defaults to the risk's: 0.9, 0.9 and 1.
        temperature (`float`, *optional*):
            Sampling temperature. Defaults to the risk's: 1, 1 and 1e-6, which is greedy.
        batch_size (`int`, *optional*, defaults to `64`):
            Answers per forward pass.
        num_resamples (`int`, *optional*, defaults to `2000`):
            Number of bootstrap resamples for the intervals, and of permutations for the tests.
        seed (`int`, *optional*, defaults to `0`):
            Seed of sampling and resampling.
        output_dir (`str`, *optional*):
            Folder for the report and the answers.
        device (`str`, *optional*):
            Device of the models, such as `"cuda"`. Defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the models' weights.
        allow_base_mismatch (`bool`, *optional*, defaults to `False`):
            Accept a base that was fine-tuned since the patch was made.
    """

    allow_filtering_scorers: bool = option(
        False, "Measure with these scorers too, and mark their figures.", switch=True
    )
    perplexity_model: str | None = option(
        None, "Model under which perplexity is measured. Default: the teacher, else the base.", alias="judge"
    )
    num_prompts: int | None = option(None, "Use the first ones only.", least=1)
    num_samples: int | None = option(None, "Samples per prompt. Default: by risk, 25, 10 or 1.", least=1)
    max_new_tokens: int | None = option(None, "Longest sample, in tokens. Default: 20, 20 or 64.", least=1)
    top_p: float | None = option(None, "Nucleus to sample from. Default: by risk, 0.9, 0.9 or 1.", above=0, most=1)
    temperature: float | None = option(None, "Divides the logits. Default: by risk, 1, 1 or greedy (1e-6).", above=0)
    batch_size: int = option(64, "Samples per forward pass.", least=1)
    num_resamples: int = option(2000, "Bootstrap resamples, and permutations.", least=1)
    seed: int = option(0, "Seed of samples and resamples.", least=0)
    output_dir: str | None = option(None, "Where to write. Default: the folder of the (first) patch, or this one.")
    device: str | None = option(None, DEVICE_HELP)
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES)
    allow_base_mismatch: bool = option(False, MISMATCH_HELP, switch=True)

    @property
    def where(self) -> dict[str, Any]:
        """Return `device` and `dtype` as keyword arguments of [`load_model`]."""
        return {"device": self.device, "dtype": self.dtype}


@checked
class EvaluateRecipe(MeasuringSettings, Recipe):
    """Measures one risk with a patch, with the base alone and with alternatives, and measures what the patch costs.

    The answers are kept in the output folder, in `evaluation-answers`. If a run is stopped, a second run continues from
    them. Under a launcher, all processes share the work, and one of them writes the report.

    Args:
        patches (`list[str]`):
            Folders or Hub ids (`org/tox-patch@v1.2.0`), in the order of the stack.
        base (`str`, *optional*):
            Hub id or folder of the base. Defaults to the base that the first patch names.
        risk (`str`, *optional*):
            The risk to measure. Defaults to the first patch's risk, else to toxicity.
        prompts (`str`, *optional*):
            Prompts that the patch was not trained on, as in [`PairsRecipe`]. If they have a column `category`, the
            report shows each category separately. Defaults to the risk's own prompts, if it has any.
        safe_prompts (`str`, *optional*):
            Harmless prompts that look like harmful requests, to measure over-refusal. Defaults to the risk's own.
        neutral_texts (`str`, *optional*):
            Texts without the risk. Their perplexity with the patch shows what the patch costs.
        own_task (`str`, *optional*):
            Multiple-choice items, as in [`read_task`]: the share that is answered right shows what the patch costs.
        teacher (`str`, *optional*):
            The safer model, measured for comparison. It may be an endpoint, such as `openai:<model>@<address>/v1`.
        safe_prompt (`str`, *optional*):
            A safety instruction. The base is also measured with it in front of each prompt.
        equal_length_prompt (`bool`, *optional*, defaults to `False`):
            Also measure the base with the sentence that the patch starts from, repeated to the length of the patch.
        untrained (`bool`, *optional*, defaults to `False`):
            Also measure the patch as it was before training.
        also (`dict[str, str]`, *optional*):
            More patches to measure for comparison: name -> folder.
        lora, lora_merged (`dict[str, str]`, *optional*):
            LoRA adapters in PEFT's format to measure for comparison: name -> folder. `lora` keeps them separate from
            the base's weights; `lora_merged` merges them into the weights.
        endpoint (`str`, *optional*):
            The same patch on a running server, `"openai:<model>@<address>"`. It is measured as the system "served",
            beside "patch", which runs in this process. Join the addresses of several replicas by commas.
        scorers (`list[str]`, *optional*):
            Names of scorers or judges; the first gives the main figure. Defaults to those of the risk.
        filtered_by (`list[str]`, *optional*):
            Names of scorers that filtered the training pairs, in addition to those that the patch names.
        other_risks (`list[str]`, *optional*):
            Risks that the patch is not for. The base and the patch are measured on them, too.
        prompts_of (`dict[str, str]`, *optional*):
            Other risk -> its prompts. Defaults to the risk's own.
        scorers_of (`dict[str, list[str]]`, *optional*):
            Other risk -> names of its scorers. Defaults to the first scorer of the risk.
        gate (`str`, *optional*):
            A gate file. All that it asks for is measured, on the prompts that it names.
        show_words (`bool`, *optional*, defaults to `False`):
            Do not mask offensive words in `evaluation.md`.
        figures (`list[str]`, *optional*):
            Also write `evaluation.pdf` or `.svg` (the picture as vector graphics) or `.csv` (one row for each figure).
        **settings:
            The settings of [`MeasuringSettings`]. `output_dir` defaults to the folder of the first patch, or to the
            current folder if that patch is on the Hub.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is impossible.

    Example:

    ```python
    recipe = EvaluateRecipe(patches=["tox-patch"], prompts="lab:toxicity/test", scorers=["lab-insults"])
    report = recipe.run()
    ```
    """

    patches: list[str] = option(help=PATCHES_HELP)
    base: str | None = option(None, f"{MODEL_HELP} Default: the one that the patch names.")
    risk: str | None = option(
        None, "toxicity, gender_bias, harmfulness or one of your own. Default: the patch's, else toxicity."
    )
    prompts: str | None = option(
        None, f"{PROMPTS_HELP} A column `category` is shown apart. Default: the risk's own, if it has any."
    )
    safe_prompts: str | None = option(None, "Harmless look-alikes. Rows labelled `unsafe` are left out.")
    neutral_texts: str | None = option(None, "Texts whose perplexity says what the patch costs.")
    own_task: str | None = option(None, "JSON lines of your own: prompt, choices, answer. What the patch costs there.")
    teacher: str | None = option(None, f"The safer model, to compare with. {ANSWERING_HELP}")
    safe_prompt: str | None = option(None, "Instruction in front of the base's prompts, to compare.")
    equal_length_prompt: bool = option(
        False, "Compare the base with the patch's first sentence repeated to the length of the patch.", switch=True
    )
    untrained: bool = option(False, "Compare the patch as it was before training.", switch=True)
    also: dict[str, str] = option({}, "More patches to compare: name -> folder.")
    lora: dict[str, str] = option({}, "LoRA folders of PEFT, to compare.")
    lora_merged: dict[str, str] = option({}, "The same, added to the base's weights.")
    endpoint: str | None = option(
        None, f"The patch at a running server, to compare; with --stack, a gateway. {REPLICAS_HELP}"
    )
    scorers: list[str] = option([], f"{SCORERS_HELP} Default: those of the risk.")
    filtered_by: list[str] = option([], "Scorers that filtered the training pairs, beside those that the patch names.")
    other_risks: list[str] = option([], "Risks that the patch is not for: measured for base and patch, too.")
    prompts_of: dict[str, str] = option({}, "With --other_risks: risk -> its prompts.")
    scorers_of: dict[str, list[str]] = option({}, "With --other_risks: risk -> its scorers.")
    gate: str | None = option(None, "Gate file of `policy-patch gate`: measure all that it asks for.")
    show_words: bool = option(False, "Do not mask offensive words in evaluation.md.", switch=True)
    figures: list[Literal["pdf", "svg", "csv"]] = option([], "Figures for a paper, to write too: pdf, svg, csv.")

    def check(self) -> None:
        """Check the names in the recipe and read the patches, fetching them if needed. No model is loaded.

        Raises:
            ConfigError: no patch is given.
            ModelLoadError, DataError, EvaluationError: a model, a file or a scorer does not exist.
            PatchNotFoundError, PatchFileError, HubError: a patch does not exist, is damaged or cannot be fetched.
        """
        found, risk = self._found()
        whole = asked_by_gate(self, risk, found.base, found.configs[0].risk or "")
        whole._check_sources(risk)
        check_other_risks(whole)
        for key in () if self.gate else ("prompts_of", "scorers_of"):
            check_risks_asked(key, getattr(self, key), self.other_risks)

    def _found(self) -> "tuple[FoundPatches, Risk]":
        if not self.patches:
            raise ConfigError("`patches=[]`: expected at least one folder or Hub id of a patch.")
        for key in ("base", "perplexity_model"):
            check_model(key, getattr(self, key))
        check_model("teacher", self.teacher, may_be_endpoint=True)
        check_is_endpoint("endpoint", self.endpoint)
        if self.endpoint is not None and SERVED in {**self.also, **self.lora, **self.lora_merged}:
            raise ConfigError(f"`endpoint` is measured as `{SERVED}`, which another system is called, too. Rename it.")
        for key, check_it in (("also", check_patch), ("lora", check_lora), ("lora_merged", check_lora)):
            for name, folder in getattr(self, key).items():
                check_it(f"{key}.{name}", folder)
        from policy_patch.evaluation.risks import risk_named, risk_of_patch

        risk = None if self.risk is None else risk_named(self.risk)
        found = find_patches(self.patches, self.base)
        return found, risk or risk_of_patch(found.configs[0].risk)

    def _check_sources(self, risk: "Risk") -> None:
        for key in ("prompts", "safe_prompts", "neutral_texts"):
            check_prompts(key, getattr(self, key))
        for key in ("scorers", "filtered_by"):
            for spec in getattr(self, key):
                check_scorer(key, spec, risk.load_scorer)
        self._sources(risk)

    @property
    def folder(self) -> Path:
        """Return the folder for the report and the answers."""
        beside = [patch for patch in self.patches[:1] if os.path.isdir(patch)]
        return Path(self.output_dir or (beside[0] if beside else "."))

    def _sources(self, risk: "Risk") -> tuple[str, str | None]:
        """Return the names of the prompts and of the harmless look-alikes; the latter may be None.

        Raises:
            DataError: no prompts are given, and the risk has none of its own.
        """
        source = self.prompts or risk.source_of("test")
        if source is None:
            raise DataError(f"`prompts` is missing: there are none for {risk.name}. Say what to measure it on.")
        if self.other_risks and not risk.asks_safe_prompts:
            return source, None  # the look-alikes are those of an other risk
        return source, self.safe_prompts or risk.source_of("safe_test")

    def run(self, *, on_progress: Progress | None = None, on_note: Note | None = None) -> "EvaluationReport":
        """Measure, write `evaluation.json`, `evaluation.md` and `evaluation.png`, and return the report.

        Args:
            on_progress (`Callable[[str, int, int], None]`, *optional*):
                Called during each long stage with its name, the units done and the total. An exception that it raises
                ends the run.
            on_note (`Callable[[str], None]`, *optional*):
                Called with one sentence about the run, such as which base is loaded.

        Returns:
            [`EvaluationReport`].

        Raises:
            ConfigError, ModelLoadError, DataError, EvaluationError, PatchNotFoundError, HubError: something that the
                recipe names cannot be loaded, or cannot be measured.
        """
        report = self.measure(self.folder / WORK_NAME, on_progress=on_progress, on_note=on_note)
        if is_main_process():
            report.save(self.folder, mask_words=not self.show_words)
            report.save_figures(self.folder, self.figures)
        return report

    def measure(
        self,
        work_dir: str | os.PathLike | None = None,
        *,
        on_progress: Progress | None = None,
        on_note: Note | None = None,
    ) -> "EvaluationReport":
        """Measure, and return the report without writing it.

        Args:
            work_dir (`str` or `os.PathLike`, *optional*):
                Folder that keeps the answers, so that a stopped run can continue.
            on_progress, on_note (`Callable`, *optional*):
                As in [`EvaluateRecipe.run`].
        """
        found, risk = self._found()
        self = asked_by_gate(self, risk, found.base, found.configs[0].risk or "")
        return self._measure(found, risk, work_dir, on_progress or ignore, on_note or ignore)

    def _measure(
        self,
        found: FoundPatches,
        risk: "Risk",
        work_dir: str | os.PathLike | None,
        on_progress: Progress,
        on_note: Note,
    ) -> "EvaluationReport":
        from policy_patch.data.own_task import read_task
        from policy_patch.evaluation import Alternatives, EvaluationSampling, evaluate_policy_patch
        from policy_patch.evaluation.independence import check_independence

        self._check_sources(risk)
        others = check_other_risks(self)
        source, safe_source = self._sources(risk)
        prompts = asked_of(source, risk.name)[: self.num_prompts]
        safe_prompts = look_alikes_of(safe_source)[: self.num_prompts] if safe_source else ()
        neutral_texts = prompts_of(self.neutral_texts) if self.neutral_texts else ()
        scorers = loaded("scorers", self.scorers or risk.scorers, risk)
        filtered_by = [scorer.name for scorer in loaded("filtered_by", self.filtered_by, risk)]
        check_independence(
            scorers, [*filtered_by, *found.filtered_by], allowed=self.allow_filtering_scorers
        )  # before the base is loaded
        opened = open_models(found, self.where, self.teacher, on_note, allow_base_mismatch=self.allow_base_mismatch)
        perplexity = perplexity_model_of(
            self.perplexity_model, opened, base=self.base, teacher=self.teacher, **self.where
        )
        shared = {
            "perplexity": perplexity, "filtered_by": filtered_by, "num_resamples": self.num_resamples,
            "allow_filtering_scorers": self.allow_filtering_scorers, "on_progress": on_progress,
            "sampling": EvaluationSampling(
                num_samples=self.num_samples, max_new_tokens=self.max_new_tokens, top_p=self.top_p,
                temperature=self.temperature, batch_size=self.batch_size, seed=self.seed,
            ),
        }  # fmt: skip
        report = evaluate_policy_patch(
            opened.model, opened.tokenizer, prompts,
            risk=risk.name, scorers=scorers, categories=categories_of(source, len(prompts), risk.name),
            safe_prompts=safe_prompts, neutral_texts=neutral_texts,
            own_task=read_task(self.own_task) if self.own_task else (),
            alternatives=Alternatives(
                teacher=opened.teacher, teacher_tokenizer=opened.teacher_tokenizer, untrained=self.untrained,
                safe_prompt=self.safe_prompt, equal_length_prompt=self.equal_length_prompt,
                extra_systems=self._others(opened, found.base),
            ),
            work_dir=work_dir, **shared,
        )  # fmt: skip
        if not others:
            return report

        def measure(prompts: list[str], *, risk: str, **more: Any) -> "EvaluationReport":
            folder = None if work_dir is None else Path(work_dir, risk)
            return evaluate_policy_patch(
                opened.model, opened.tokenizer, prompts, risk=risk, work_dir=folder, **shared, **more
            )

        return replace(report, other_risks=other_reports(self, others, measure, own=found.configs[0].risk or ""))

    def _others(self, opened: Opened, base: str) -> "dict[str, System]":
        from policy_patch.evaluation import System, lora_loader

        others = other_patches(opened, self.also)
        if self.endpoint is not None:
            others[SERVED] = System(load_answering(self.endpoint)[0])
        for folders, merged in ((self.lora, False), (self.lora_merged, True)):
            for name, folder in folders.items():
                load_base = partial(_own_base, base, self.where)
                others[name] = System(lora_loader(load_base, folder, merged=merged))
        return others


def loaded(key: str, specs: "list[str] | tuple[str, ...]", risk: "Risk") -> list[Any]:
    """Return the scorers with these names; errors name `key`, their key in the recipe."""
    with under(key):
        return [risk.load_scorer(spec) for spec in specs]


def _own_base(name: str, where: Mapping[str, Any]) -> "PreTrainedModel":
    return load_model(name, **where)[0]
