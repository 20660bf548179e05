"""The sections `patch` and `data` of a `TrainRecipe`: the settings of the new patch and of its training data.

`train.py` uses them. The settings of sampling are in `pairs.py`.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from policy_patch.recipes.names import check_prompts, check_scorer, check_source
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.pairs import SCORER_HELP, PairSettings
from policy_patch.recipes.prompts import PROMPTS_HELP
from policy_patch.recipes.sources import PAIRS_HELP, SPLIT_HELP, WEIGHTS_HELP, PairSources, check_weights


@checked
class PatchSettings:
    """The section `patch` of a `TrainRecipe`: settings of the new patch, as in [`PolicyPatchConfig`].

    Args:
        risk (`str`, *optional*):
            The risk that the patch lowers. Defaults to toxicity, or to the risks of `data.pairs`, joined by `+`.
        patch_version (`str`, *optional*, defaults to `"0.1.0"`):
            Version of the patch (SemVer).
        num_virtual_tokens (`int`, *optional*, defaults to `50`):
            Number of learned vectors.
        placement (`"after_bos"` or `"before_bos"`, *optional*, defaults to `"after_bos"`):
            Place of the vectors relative to the BOS token.
        init (`"text"`, `"vocab"` or `"random"`, *optional*, defaults to `"text"`):
            Initial values of the vectors: embeddings of `init_text`, of random tokens of the vocabulary, or random
            numbers.
        init_text (`str`, *optional*):
            Instruction for `init="text"`. Defaults to that of the risk.
        init_seed (`int`, *optional*, defaults to `0`):
            Seed for `init="vocab"` and `init="random"`.
        start_from (`str`, *optional*):
            Folder or Hub id of a patch to train further, instead of a new patch.
    """

    _path: ClassVar[str] = "patch"

    risk: str | None = option(
        None, "The risk that the patch lowers. Default: toxicity, or the risks of `data.pairs`, joined by +."
    )
    patch_version: str = option("0.1.0", "Version of the patch (SemVer).")
    num_virtual_tokens: int = option(50, "Number of learned vectors.")
    placement: Literal["after_bos", "before_bos"] = option("after_bos", "Place of the vectors.")
    init: Literal["text", "vocab", "random"] = option("text", "Initial values of the vectors.")
    init_text: str | None = option(None, "Instruction for init text. Default: by risk.")
    init_seed: int = option(0, "Seed for init vocab and random.")
    start_from: str | None = option(None, "Folder or Hub id of a patch to train further, instead of a new patch.")


@checked
class DataSettings(PairSettings):
    """The section `data` of a `TrainRecipe`: existing pairs, or prompts to sample pairs for.

    Args:
        pairs (`str`, `list[str]` or `dict[str, str]`, *optional*):
            A file or a dataset on the Hub, a list of these, or a mapping from risk to one of these.
        weights (`dict[str, float]`, *optional*):
            With a mapping in `pairs`: risk to its share of the rows. By default every row is taken once.
        split (`str`, *optional*):
            Split of datasets on the Hub. Defaults to `train`, or to the only split.
        prompts (`str`, *optional*):
            Source of the prompts, as in [`PairsRecipe`]. Defaults to the risk's own prompts, if it has any.
        safe_prompts (`str`, *optional*):
            Harmless prompts that look like harmful requests. Pairs that prefer an answer to them keep the patch from
            refusing everything.
        num_prompts (`int`, *optional*):
            Use only the first `num_prompts` prompts. Defaults to all.
        scorer (`str`, *optional*):
            Name of the scorer that filters the pairs. Defaults to the risk's.
        **settings:
            The settings of [`PairSettings`].
    """

    _path: ClassVar[str] = "data"

    pairs: PairSources = option(None, PAIRS_HELP)
    weights: dict[str, float] | None = option(None, WEIGHTS_HELP)
    split: str | None = option(None, SPLIT_HELP)
    prompts: str | None = option(None, PROMPTS_HELP)
    safe_prompts: str | None = option(
        None, "Harmless look-alikes of harmful requests. Answers to them keep the patch from refusing everything."
    )
    num_prompts: int | None = option(None, "Use only this many prompts, the first ones.", least=1)
    scorer: str | None = option(None, f"{SCORER_HELP} Default: by risk.")

    def check(self) -> None:
        """Check the names of sources, prompts and scorer; see [`TrainRecipe.check`]."""
        check_weights(self.pairs, self.weights)
        if self.pairs:
            named = self.pairs if isinstance(self.pairs, Mapping) else {}
            for key, source in named.items():
                check_source(f"data.pairs.{key}", source)
            for source in () if named else [self.pairs] if isinstance(self.pairs, str) else self.pairs:
                check_source("data.pairs", source)
            return
        from policy_patch.evaluation import load_scorer

        for key in ("prompts", "safe_prompts"):
            check_prompts(f"data.{key}", getattr(self, key))
        if self.scorer is not None:
            check_scorer("data.scorer", self.scorer, load_scorer)
