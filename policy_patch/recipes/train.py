"""`TrainRecipe`: trains a patch for a base, on existing pairs or on pairs sampled with a safer teacher and prompts.

`policy_patch.training` runs the two stages. The caller's callbacks show the progress.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policy_patch.errors import ConfigError, DataError, TrainingError
from policy_patch.recipes.models import (
    ANSWERING_HELP,
    DTYPES,
    MODEL_HELP,
    check_can_load,
    load_answering,
    load_model,
    load_tokenizer,
)
from policy_patch.recipes.names import check_model, check_patch, check_risk, under
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.pairs import DEVICE_HELP, DTYPE_HELP, is_main_process, sample_pairs
from policy_patch.recipes.prompts import asked_of, look_alikes_of
from policy_patch.recipes.recipe import Note, Progress, Recipe, ignore
from policy_patch.recipes.recorded_recipe import record_recipe
from policy_patch.recipes.sources import counts_of, init_text_of, load_pairs, risk_of
from policy_patch.recipes.stages import check_numbers, check_settings, training_settings, with_paths
from policy_patch.recipes.train_sections import DataSettings, PatchSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from policy_patch.config import PolicyPatchConfig
    from policy_patch.model.patched_model import PolicyPatchModel
    from policy_patch.training.two_stage import TrainingLog

Opened = "tuple[PreTrainedModel, PreTrainedTokenizerBase]"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a `TrainRecipe`.

    Args:
        output_dir (`str`):
            Folder of the patch.
        log (`TrainingLog`):
            Log entries of each stage: step, loss, rewards, learning rate and more.
    """

    output_dir: str
    log: "TrainingLog"


@checked
class TrainRecipe(Recipe):
    """Trains a patch in two stages: SFT on the teacher's answers, then DPO that prefers them over the base's answers.

    If a run is stopped, running the same recipe again skips what is done. Under a launcher, all processes share the
    work.

    Args:
        base (`str`):
            Hub id or folder of the model to patch; `lab:base` comes with the package.
        teacher (`str`, *optional*):
            The safer model. It may be an endpoint (`openai:<model>@<address>/v1`), unless its probabilities are needed.
        output_dir (`str`):
            Folder for the patch, and for the files that let a stopped run continue.
        patch ([`PatchSettings`] or `dict`, *optional*):
            Settings of the new patch.
        data ([`DataSettings`] or `dict`, *optional*):
            The pairs, or the prompts to sample pairs for. If neither is given, the risk's own prompts are used.
        sft (`dict`, *optional*):
            Settings of the first stage, [`PolicyPatchSFTConfig`]. `{"max_steps": 0}` skips it.
        dpo (`dict`, *optional*):
            Settings of the second stage, [`PolicyPatchDPOConfig`]. `{"max_steps": 0}` skips it.
        seed (`int`, *optional*, defaults to `42`):
            Seed of sampling and of both stages.
        stack_probability (`float`, *optional*, defaults to `0.0`):
            The share of the steps of both stages in which other, frozen vectors stand around the patch, so that it
            keeps its effect in a stack; see [`StageSettings`].
        stack_with (`list[str]`, *optional*):
            What stands there: folders and Hub ids of patches, `lab:<risk>`, and stand-ins of random length
            (`stand-in:text`, `stand-in:vocab`, `stand-in:random`). Defaults to `stand-in:text`.
        stack_side (`"both"`, `"before"` or `"after"`, *optional*, defaults to `"both"`):
            Where they stand.
        device (`str`, *optional*):
            Device of the models, such as `"cuda"`. Defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the models' weights.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is impossible.

    Example:

    ```python
    recipe = TrainRecipe.from_yaml("recipe.yaml", overrides={"dpo.beta": 0.3})
    result = recipe.run(on_progress=lambda stage, done, total: print(stage, done, total))
    ```
    """

    base: str = option(help=MODEL_HELP)
    teacher: str | None = option(None, f"The safer model. {ANSWERING_HELP}")
    output_dir: str = option(help="Folder for the patch, and for the files that let a stopped run continue.")
    patch: PatchSettings = option(PatchSettings, "Settings of the new patch.")
    data: DataSettings = option(DataSettings, "The pairs to train on, or how to sample them.")
    sft: dict[str, Any] = option({}, "Settings of the first stage, as in TRL's SFTConfig.")
    dpo: dict[str, Any] = option({}, "Settings of the second stage, as in TRL's DPOConfig.")
    seed: int = option(42, "Seed of sampling and of both stages.", least=0)
    stack_probability: float = option(
        0.0, "Share of the training steps with other patches around the new one.", least=0, most=1
    )
    stack_with: list[str] = option([], "These other patches: folders, Hub ids, lab:<risk>, stand-in:<kind>.")
    stack_side: Literal["both", "before", "after"] = option("both", "Where the other patches stand.")
    device: str | None = option(None, DEVICE_HELP)
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES)

    def check(self) -> None:
        """Check the whole recipe: names, files, and all settings of both stages. No model is loaded.

        Raises:
            ConfigError: a value is impossible, or a key of a stage is unknown.
            ModelLoadError, DataError, EvaluationError, PatchNotFoundError: a model, a file, a scorer or the patch to
                start from does not exist.
            TrainingError: the teacher's probabilities are needed, and there is no teacher.
        """
        check_risk("patch.risk", self.patch.risk)
        for name in self.data.pairs if isinstance(self.data.pairs, Mapping) else ():
            check_risk("data.pairs", name)
        check_model("base", self.base)
        check_model("teacher", self.teacher, may_be_endpoint=not self._trains_on_teacher)
        self._check_sources()
        for stage in ("sft", "dpo"):
            check_numbers(stage, getattr(self, stage))
        if self.patch.start_from is None:
            self.patch_config()
        else:
            check_patch("patch.start_from", self.patch.start_from)
        for one in self.stack_with:
            if not one.startswith(("lab:", "stand-in:")):  # the names of these are checked with the settings
                check_patch("stack_with", one)
        self.data.check_temperature("data.temperature", self.base)
        self.data.check()
        check_settings(self._settings())

    @property
    def risk(self) -> str:
        """Return the risk that the patch lowers: the one in the section `patch`, or else the risks of the pairs."""
        return self.patch.risk or risk_of(self.data.pairs)

    @property
    def _prompts(self) -> str | None:
        """Return the name of the prompts: those given, else the risk's own, else None."""
        if self.data.prompts:
            return self.data.prompts
        from policy_patch.evaluation.risks import RISKS

        return RISKS[self.risk].source_of("train") if self.risk in RISKS else None

    @property
    def _trains_on_teacher(self) -> bool:
        """Return whether a stage needs the teacher's probabilities, and so its weights."""
        asks = {"dpo": self.dpo.get("reference") == "teacher", "sft": bool(self.sft.get("kl_weight"))}
        return any(asks[stage] and getattr(self, stage).get("max_steps") != 0 for stage in asks)

    def _check_sources(self) -> None:
        if not self.data.pairs and not (self.teacher and self._prompts):
            raise DataError(
                "The recipe names no training data. Give `data.pairs`, or a `teacher` and `data.prompts` to sample "
                f"pairs.{self._unknown_risk()}"
            )
        if self._trains_on_teacher and not self.teacher:
            which = '`dpo.reference="teacher"`' if self.dpo.get("reference") == "teacher" else "`sft.kl_weight`"
            raise TrainingError(f"{which} needs `teacher`: it uses the safer model's probabilities.")

    def _unknown_risk(self) -> str:
        """Return a sentence about a risk that is not known here, and so has no prompts of its own; else nothing."""
        from policy_patch.config import DEFAULT_INIT_TEXTS

        if not self.risk or self.risk in DEFAULT_INIT_TEXTS or self.data.prompts:
            return ""  # the risks of this package, so that torch need not be imported for this message
        from policy_patch.evaluation.risks import RISKS
        from policy_patch.near_names import did_you_mean

        if self.risk in RISKS:
            return ""
        hint = did_you_mean(self.risk, RISKS, shown=repr, then=f"Available: {', '.join(RISKS)}.")
        return f" The risk {self.risk!r} is not known here, so it has no prompts of its own. {hint}"

    def patch_config(self) -> "PolicyPatchConfig":
        """Return the initial configuration of the new patch.

        Raises:
            ConfigError: a value is impossible, or there is no initial text.
        """
        from policy_patch.config import PolicyPatchConfig

        facts = {name: value for name, value in asdict(self.patch).items() if name != "start_from"}
        facts["risk"] = self.risk
        if facts["init"] == "text":
            facts["init_text"] = facts["init_text"] or init_text_of(facts["risk"])
        try:
            config = PolicyPatchConfig(**facts, base_model_name_or_path=self.base)
        except ConfigError as error:
            raise ConfigError(with_paths(str(error), "patch", facts)) from error
        if config.init == "text" and config.init_text is None:
            raise ConfigError(
                f'`patch.init="text"` needs an `init_text`; there is no default for `patch.risk={config.risk!r}`. Give '
                "a safety instruction in plain words."
            )
        return config

    def _settings(self) -> Any:
        return training_settings(
            self.output_dir, {"sft": self.sft, "dpo": self.dpo}, self.seed,
            stack_probability=self.stack_probability, stack_with=self.stack_with, stack_side=self.stack_side,
        )  # fmt: skip

    def run(
        self,
        *,
        callbacks: "Sequence[TrainerCallback]" = (),
        on_progress: Progress | None = None,
        on_note: Note | None = None,
    ) -> TrainResult:
        """Train the patch.

        Args:
            callbacks (`Sequence[TrainerCallback]`, *optional*):
                Callbacks of both stages' trainers.
            on_progress (`Callable[[str, int, int], None]`, *optional*):
                Called during each long stage with its name, the units done and the total. The stages are "sampling
                answers", "sampling answers to look-alikes", "training, SFT" and "training, DPO". An exception that it
                raises ends the run.
            on_note (`Callable[[str], None]`, *optional*):
                Called with one sentence about the run, such as how many pairs were kept.

        Returns:
            [`TrainResult`].

        Raises:
            ConfigError, ModelLoadError, DataError, EvaluationError, HubError, TrainingError: as [`TrainRecipe.check`],
                or something that the recipe names cannot be loaded.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved. The same recipe continues from it.
        """
        from policy_patch.recipes.stage_progress import StageProgress
        from policy_patch.training import PolicyPatchTrainer

        self.check()
        on_progress, on_note = on_progress or ignore, on_note or ignore
        pairs = self._existing_pairs(on_note)
        check_can_load(self.base, self.teacher if pairs is None or self._trains_on_teacher else None)
        base, tokenizer = load_model(self.base, device=self.device, dtype=self.dtype)
        self._check_room(base, tokenizer)
        if pairs is None:
            pairs = self._sampled_pairs((base, tokenizer), on_progress, on_note)

        def teacher() -> "PreTrainedModel":
            # If a second stage needs the teacher, it is loaded again instead of being kept in memory.
            return load_model(self.teacher, device=self.device, dtype=self.dtype)[0]

        needs_teacher = self._trains_on_teacher
        trainer = PolicyPatchTrainer(
            self._model(base, tokenizer),
            self._settings(),
            pairs,
            processing_class=tokenizer,
            teacher=teacher if needs_teacher else None,
            teacher_tokenizer=load_tokenizer(self.teacher) if needs_teacher else None,
            callbacks=[StageProgress(on_progress), *callbacks],
        )
        if is_main_process():
            record_recipe(self, self.output_dir)
        return TrainResult(output_dir=self.output_dir, log=trainer.train())

    def make_pairs(self, *, on_progress: Progress | None = None, on_note: Note | None = None) -> "Dataset":
        """Return the preference pairs that the recipe trains on: loaded, or sampled into the output folder.

        Arguments and errors are those of [`TrainRecipe.run`].
        """
        self.check()
        pairs = self._existing_pairs(on_note or ignore)
        if pairs is None:
            check_can_load(self.base, self.teacher)
            opened = load_model(self.base, device=self.device, dtype=self.dtype)
            self._check_room(*opened)
            pairs = self._sampled_pairs(opened, on_progress or ignore, on_note or ignore)
        return pairs

    def _check_room(self, base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raise `DataError` if the vectors and an answer leave no room for a prompt in the base's positions."""
        from policy_patch.answers.positions import room_for_prompt
        from policy_patch.evaluation.risks import RISKS

        vectors = self.patch.num_virtual_tokens
        if self.patch.start_from:
            from policy_patch.hub.opening import open_patch

            vectors = open_patch(self.patch.start_from).config.num_virtual_tokens
        risk = RISKS.get(self.risk)  # which the patch is measured on afterwards
        longest = max(self.data.max_new_tokens, risk.max_new_tokens if risk else 0)
        with under("patch.num_virtual_tokens"):
            room_for_prompt(base, tokenizer, longest, vectors=vectors)

    def _existing_pairs(self, on_note: Note) -> "Dataset | None":
        if not self.data.pairs:
            return None
        pairs = load_pairs(self.data.pairs, split=self.data.split, weights=self.data.weights, seed=self.seed)
        if isinstance(self.data.pairs, Mapping):
            on_note(counts_of(pairs))
        return pairs

    def _sampled_pairs(self, base: Opened, on_progress: Progress, on_note: Note) -> "Dataset":
        from policy_patch.data import save_preference_pairs
        from policy_patch.evaluation.risks import pair_scorer_of

        folder = Path(self.output_dir)
        prompts = asked_of(self._prompts, self.risk)[: self.data.num_prompts]
        look_alikes = look_alikes_of(self.data.safe_prompts)[: self.data.num_prompts] if self.data.safe_prompts else []
        teacher = load_answering(self.teacher, device=self.device, dtype=self.dtype)
        pairs, counts = sample_pairs(
            base, teacher, prompts, settings=self.data, scorer=self.data.scorer or pair_scorer_of(self.risk),
            seed=self.seed, output_dir=folder / "answers", on_progress=on_progress,
        )  # fmt: skip
        if look_alikes:
            pairs = self._with_helpful_pairs(
                pairs, look_alikes, base, teacher, on_progress=on_progress, on_note=on_note
            )
        if is_main_process():
            on_note(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in counts.items()))
            save_preference_pairs(pairs, folder / "pairs.jsonl")
        return pairs

    def _with_helpful_pairs(
        self,
        pairs: "Dataset",
        look_alikes: list[str],
        base: Opened,
        teacher: Opened,
        *,
        on_progress: Progress,
        on_note: Note,
    ) -> "Dataset":
        """Return the pairs, mixed with pairs for harmless look-alikes that prefer an answer over a refusal."""
        from datasets import concatenate_datasets

        from policy_patch.data import build_helpful_pairs
        from policy_patch.evaluation import load_scorer

        names = ("num_samples", "max_new_tokens", "top_p", "temperature", "batch_size")
        helpful = build_helpful_pairs(
            base[0], teacher[0], base[1], look_alikes,
            refusals=pairs["chosen"][:], scorer=load_scorer("compliance"), teacher_tokenizer=teacher[1],
            seed=self.seed, output_dir=Path(self.output_dir, "helpful-answers"),
            on_progress=lambda done, total: on_progress("sampling answers to look-alikes", done, total),
            **{name: getattr(self.data, name) for name in names},
        )  # fmt: skip
        on_note(f"look-alikes with an answer: {len(helpful)}")
        return concatenate_datasets([pairs, helpful]).shuffle(seed=self.seed)

    def _model(self, base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> "PolicyPatchModel":
        """Return the base with a new trainable patch, or with the patch that `patch.start_from` names."""
        from policy_patch import PolicyPatchModel, get_policy_patch_model

        if self.patch.start_from:
            return PolicyPatchModel.from_pretrained(base, self.patch.start_from, is_trainable=True, tokenizer=tokenizer)
        return get_policy_patch_model(base, self.patch_config(), tokenizer)
