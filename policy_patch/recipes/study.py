"""`StudyRecipe`: measures every risk with each of several patches and with stacks of them.

The report shows which patch makes which risk worse. `policy_patch.evaluation.composition` does the measuring;
`EvaluateRecipe` measures one risk.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from policy_patch.errors import ConfigError, DataError, EvaluationError
from policy_patch.recipes.evaluate import (
    WORK_NAME,
    MeasuringSettings,
    loaded,
)
from policy_patch.recipes.models import ANSWERING_HELP, MODEL_HELP
from policy_patch.recipes.names import check_is_endpoint, check_model, check_patch, check_prompts, check_scorer, under
from policy_patch.recipes.opened import open_models, other_patches
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.pairs import is_main_process
from policy_patch.recipes.patched import PATCHES_HELP, FoundPatches, find_patches
from policy_patch.recipes.perplexity import perplexity_model_of
from policy_patch.recipes.prompts import asked_of, look_alikes_of
from policy_patch.recipes.recipe import Note, Progress, Recipe, ignore
from policy_patch.report.system_names import SERVED

if TYPE_CHECKING:
    from policy_patch.evaluation import CompositionReport, RiskInputs, System
    from policy_patch.evaluation.risks import Risk


@checked
class StudyRecipe(MeasuringSettings, Recipe):
    """Measures every risk with each of several patches and with stacks of them.

    Args:
        patches (`list[str]`):
            Folders or Hub ids of at least two patches, in the order of the stack.
        base (`str`, *optional*):
            Hub id or folder of the base. Defaults to the base that the first patch names.
        safe_prompts (`str`, *optional*):
            Harmless prompts that look like harmful requests, to measure over-refusal. Defaults to the lab's for a lab
            base, else to the risk's own.
        teacher (`str`, *optional*):
            The safer model, measured for comparison. It may be an endpoint, such as `openai:<model>@<address>/v1`.
        safe_prompt (`str`, *optional*):
            A safety instruction. The base is also measured with it in front of each prompt.
        also (`dict[str, str]`, *optional*):
            More patches to measure for comparison: name -> folder.
        endpoint (`str`, *optional*):
            `openai:<base>@<address>/v1` of a running `policy-patch gateway`. Every stack is also measured as it serves
            it, as `<stack>, served`. The gateway must serve these very patches.
        orders (`"all"` or `"given"`, *optional*, defaults to `"all"`):
            Measure stacks in all orders, or only in the given order.
        prompts_of (`dict[str, str]`, *optional*):
            Risk -> its prompts, as in [`PairsRecipe`]. The risks that the patches name are measured, too. Their prompts
            default to the lab's for a lab base, else to the risk's own.
        scorers_of (`dict[str, list[str]]`, *optional*):
            Risk -> names of its scorers. Defaults to the first scorer of the risk.
        **settings:
            The settings of [`MeasuringSettings`]. `output_dir` defaults to `composition`.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is impossible.

    Example:

    ```python
    report = StudyRecipe(patches=["tox-patch", "harm-patch"], output_dir="composition").run()
    ```
    """

    patches: list[str] = option(help=PATCHES_HELP)
    base: str | None = option(None, f"{MODEL_HELP} Default: the one that the patch names.")
    safe_prompts: str | None = option(None, "Harmless look-alikes of harmful requests.")
    teacher: str | None = option(None, f"The safer model, to compare with. {ANSWERING_HELP}")
    safe_prompt: str | None = option(None, "Safety instruction to compare with, in front of the base's prompts.")
    also: dict[str, str] = option({}, "More patches to compare with: name -> folder.")
    endpoint: str | None = option(None, "With --stack: a gateway, at which every stack is measured, too.")
    orders: Literal["all", "given"] = option(
        "all", "With --stack: measure stacks in all orders, or only in the given order."
    )
    prompts_of: dict[str, str] = option({}, "With --stack or --other_risks: risk -> its prompts.")
    scorers_of: dict[str, list[str]] = option({}, "With --stack: risk -> its scorers.")

    def check(self) -> None:
        """Check the names in the recipe and read the patches, fetching them if needed. No model is loaded.

        Raises:
            ConfigError: no patch is given.
            EvaluationError: there are fewer than two patches, no risk, or an unknown risk or scorer.
            ModelLoadError, DataError: a model or a file does not exist, or a risk has no prompts.
            PatchNotFoundError, PatchFileError, HubError: a patch does not exist, is damaged or cannot be fetched.
        """
        self._checked()

    def _checked(self) -> "tuple[FoundPatches, list[Risk]]":
        if not self.patches:
            raise ConfigError("`patches=[]`: expected folders or Hub ids of at least two patches.")
        from policy_patch.evaluation.risks import risk_named

        for key in ("prompts_of", "scorers_of"):
            for name in getattr(self, key):
                with under(f"{key}.{name}"):
                    risk_named(name)
        for key in ("base", "perplexity_model"):
            check_model(key, getattr(self, key))
        check_model("teacher", self.teacher, may_be_endpoint=True)
        check_is_endpoint("endpoint", self.endpoint)
        check_prompts("safe_prompts", self.safe_prompts)
        for name, source in self.prompts_of.items():
            check_prompts(f"prompts_of.{name}", source)
        for name, folder in self.also.items():
            check_patch(f"also.{name}", folder)
        found = find_patches(self.patches, self.base)
        names = dict.fromkeys([*self.prompts_of, *(config.risk for config in found.configs if config.risk)])
        if len(self.patches) < 2 or not names:
            raise EvaluationError(
                f"`patches`: {len(self.patches)} patches and {len(names)} risks; expected at least two patches and one "
                "risk."
            )
        risks = [risk_named(name) for name in names]
        for risk in risks:
            if self._source_of(risk, found) is None:
                raise DataError(
                    f"There are no prompts for {risk.name}. Give them with `--prompts_of.{risk.name} <file>`."
                )
            for spec in self.scorers_of.get(risk.name, ()):
                check_scorer(f"scorers_of.{risk.name}", spec, risk.load_scorer)
        return found, risks

    def _source_of(self, risk: "Risk", found: FoundPatches) -> str | None:
        """Return the name of the prompts of a risk: those given, else the lab's for a lab base, else the risk's own."""
        in_lab = f"lab:{risk.name}/test" if self._is_in_lab(risk, found) else None
        return self.prompts_of.get(risk.name) or in_lab or risk.source_of("test")

    def _is_in_lab(self, risk: "Risk", found: FoundPatches) -> bool:
        """Return whether the base is the lab's, and the lab has prompts for this risk."""
        from policy_patch.lab import LAB_PROMPT_SETS

        return found.base.startswith("lab:") and risk.name in LAB_PROMPT_SETS

    @property
    def folder(self) -> Path:
        """Return the folder for the reports and the answers."""
        return Path(self.output_dir or "composition")

    def run(self, *, on_progress: Progress | None = None, on_note: Note | None = None) -> "CompositionReport":
        """Measure, write `composition.json`, `.md` and `.png` and a report for each risk, and return all of them.

        Args:
            on_progress (`Callable[[str, int, int], None]`, *optional*):
                Called during each long stage with its name, the units done and the total. An exception that it raises
                ends the run.
            on_note (`Callable[[str], None]`, *optional*):
                Called with one sentence about the run, such as which base is loaded.

        Returns:
            [`CompositionReport`].

        Raises:
            ConfigError, ModelLoadError, DataError, EvaluationError, PatchNotFoundError, HubError: something that the
                recipe names cannot be loaded, or cannot be measured.
            ServingError, EndpointError: the gateway does not serve these patches, or does not answer.
        """
        from policy_patch.evaluation import Alternatives, EvaluationSampling, study_composition
        from policy_patch.evaluation.independence import check_independence

        found, risks = self._checked()
        inputs = {risk.name: self._inputs(risk, found) for risk in risks}
        for one in inputs.values():  # before the base is loaded
            check_independence(one.scorers, found.filtered_by, allowed=self.allow_filtering_scorers)
        served = self._served(found)
        opened = open_models(
            found, self.where, self.teacher, on_note or ignore, allow_base_mismatch=self.allow_base_mismatch
        )
        perplexity = perplexity_model_of(
            self.perplexity_model, opened, base=self.base, teacher=self.teacher, **self.where
        )
        report = study_composition(
            opened.model, opened.tokenizer, inputs, orders=self.orders, perplexity=perplexity,
            alternatives=Alternatives(
                teacher=opened.teacher, teacher_tokenizer=opened.teacher_tokenizer, safe_prompt=self.safe_prompt,
                extra_systems={**other_patches(opened, self.also), **served},
            ),
            sampling=EvaluationSampling(
                num_samples=self.num_samples, max_new_tokens=self.max_new_tokens, top_p=self.top_p,
                temperature=self.temperature, batch_size=self.batch_size, seed=self.seed,
            ),
            allow_filtering_scorers=self.allow_filtering_scorers, num_resamples=self.num_resamples,
            work_dir=self.folder / WORK_NAME, on_progress=on_progress or ignore,
        )  # fmt: skip
        if is_main_process():
            report.save(self.folder)
        return report

    def _served(self, found: FoundPatches) -> "dict[str, System]":
        """Return each stack as the gateway serves it, by its name in the report."""
        if self.endpoint is None:
            return {}
        from policy_patch.evaluation import System
        from policy_patch.evaluation.composition import stacks_of
        from policy_patch.hub.named_patch import load_named_patch
        from policy_patch.model.ids import distinct_names
        from policy_patch.serving.served_stacks import served_stacks

        names = distinct_names(found.names)
        hashes = {name: load_named_patch(f"patch={one}").sha256 for name, one in zip(names, found.ids, strict=True)}
        served = served_stacks(self.endpoint, hashes, stacks_of(names, self.orders))
        return {f"{stack}, {SERVED}": System(endpoint) for stack, endpoint in served.items()}

    def _inputs(self, risk: "Risk", found: FoundPatches) -> "RiskInputs":
        """Load prompts, scorers and look-alikes of one risk."""
        from policy_patch.evaluation import RiskInputs

        in_lab = self._is_in_lab(risk, found)
        safe = self.safe_prompts or ("lab:look_alike/test" if in_lab else risk.source_of("safe_test"))
        return RiskInputs(
            prompts=asked_of(self._source_of(risk, found), risk.name)[: self.num_prompts],
            scorers=loaded(f"scorers_of.{risk.name}", self.scorers_of.get(risk.name) or risk.scorers[:1], risk),
            safe_prompts=look_alikes_of(safe)[: self.num_prompts] if safe and risk.asks_safe_prompts else (),
        )
