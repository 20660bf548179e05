"""Other vectors around the patch that is trained, in a share of the steps, so that it keeps its effect in a stack.

They are patches that the settings name, or stand-ins for patches that nobody knows yet. They are frozen.
`policy_patch.model.company` puts them into the calls of a step.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from policy_patch.base.probe import looking_once
from policy_patch.base.supported import check_length
from policy_patch.base.token_embeddings import embedded
from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.errors import ConfigError, TokenizerRequiredError
from policy_patch.lab import LAB_INIT_TEXTS, lab_patch_folder
from policy_patch.model.company import in_company
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.near_names import did_you_mean
from policy_patch.patch.stack_check import check_same_place
from policy_patch.patch.vectors import vectors_hash
from policy_patch.training.patch_alone import trained_patch_name

STAND_IN = "stand-in:"
STAND_INS = ("text", "vocab", "random")
DEFAULT_STAND_IN = f"{STAND_IN}text"
SIDES = ("both", "before", "after")
# Chosen by us: lengths of stand-ins, and how many patches or stand-ins stand around the patch in one step.
SHORTEST, LONGEST, MOST_AT_ONCE = 5, 100, 2
_POOL = 1024  # random tokens whose embeddings are kept


def check_company(stack_with: Sequence[str], probability: float, side: str) -> None:
    """Raise `ConfigError` for settings of company that are impossible. Folders and Hub ids are not looked for.

    Args:
        stack_with (`Sequence[str]`):
            Patches and stand-ins, as in [`StageSettings`].
        probability (`float`):
            The share of the steps with company.
        side (`str`):
            Where the company stands.
    """
    if isinstance(stack_with, str) or not all(isinstance(one, str) and one for one in stack_with):
        raise ConfigError(f"`stack_with={stack_with!r}`: expected a list of folders, Hub ids, `lab:` names, stand-ins.")
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise ConfigError(f"`stack_probability={probability!r}`: expected a number from 0 to 1.")
    if side not in SIDES:
        raise ConfigError(f"`stack_side={side!r}`: expected one of {', '.join(SIDES)}.")
    if stack_with and not probability:
        raise ConfigError(
            f"`stack_with={list(stack_with)}` has no effect with `stack_probability=0`. Give the share of the steps "
            "in which they stand around the patch, such as 0.5, or leave `stack_with` out."
        )
    for one in stack_with:
        known = {STAND_IN: STAND_INS, "lab:": tuple(LAB_INIT_TEXTS)}
        for prefix, names in known.items():
            name = one.removeprefix(prefix)
            if one.startswith(prefix) and name not in names:
                hint = did_you_mean(name, names, then=f"Expected one of {', '.join(prefix + each for each in names)}.")
                raise ConfigError(f"`stack_with` has {one!r}. {hint}")


class StandIns:
    """Makes vectors that stand for a patch: of one kind, of random length.

    Args:
        kind (`"text"`, `"vocab"` or `"random"`):
            A safety instruction, repeated and cut, as the start of a patch is; embeddings of random tokens; or noise
            with mean and deviation of the embeddings.
        embeddings (`torch.nn.Module`):
            The base's input embeddings.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer, needed for `"text"`.

    Raises:
        TokenizerRequiredError: `"text"` without a tokenizer.
    """

    def __init__(self, kind: str, embeddings: nn.Module, tokenizer: Any = None) -> None:
        self.kind = kind
        rows = next(embeddings.parameters()).shape[0]
        ids = torch.randint(rows, (_POOL,), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self._pool = embedded(embeddings, ids).float().cpu()  # (_POOL, hidden)
            self._texts = []
            if kind == "text":
                if tokenizer is None:
                    raise TokenizerRequiredError(
                        f"`stack_with` has `{STAND_IN}text`, which needs the tokenizer of the base: give "
                        f"`processing_class`, or use `{STAND_IN}vocab`."
                    )
                for text in DEFAULT_INIT_TEXTS.values():
                    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
                    self._texts.append(embedded(embeddings, tokens).float().cpu())  # (tokens, hidden)

    def drawn(self, draw: random.Random) -> torch.Tensor:
        """Return `(length, hidden_size)`, fp32, from the random numbers of `draw`."""
        length = draw.randint(SHORTEST, LONGEST)
        generator = torch.Generator().manual_seed(draw.getrandbits(62))
        if self.kind == "text":
            text = draw.choice(self._texts)
            return text.repeat(-(-length // len(text)), 1)[:length]
        if self.kind == "vocab":
            return self._pool[torch.randint(_POOL, (length,), generator=generator)]
        noise = torch.randn((length, self._pool.shape[1]), generator=generator)
        return self._pool.mean() + self._pool.std() * noise


@dataclass(frozen=True)
class Company:
    """The vectors that may stand around the patch, and how often.

    Args:
        members (`tuple[torch.Tensor | StandIns, ...]`):
            Vectors of patches, `(vectors, hidden_size)`, and makers of stand-ins.
        probability (`float`):
            The share of the steps in which some of them stand around the patch.
        side (`"both"`, `"before"` or `"after"`):
            Where they stand.
        seed (`int`):
            Seed of the draws. They depend on it and on the number of the step alone, so that a resumed run draws the
            same, and all processes do.
    """

    members: tuple[Any, ...]
    probability: float
    side: str = "both"
    seed: int = 0

    @property
    def longest(self) -> int:
        """Return the largest number of vectors that can stand around the patch in one step."""
        lengths = sorted((LONGEST if isinstance(one, StandIns) else len(one) for one in self._pool()), reverse=True)
        return sum(lengths[: self._most()])

    @property
    def sha256(self) -> str:
        """Return a hash of all that decides about the draws, in hexadecimal."""
        members = [one.kind if isinstance(one, StandIns) else vectors_hash(one) for one in self.members]
        return hashlib.sha256(repr((members, float(self.probability), self.side, self.seed)).encode()).hexdigest()

    def drawn(self, step: int, part: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the vectors before and after the patch in one step, two empty lists in a step without company.

        Args:
            step (`int`):
                The number of optimizer steps before this one.
            part (`int`, *optional*, defaults to `0`):
                The number of batches of this step before this one.
        """
        draw = random.Random(f"policy-patch company {self.seed} {step} {part}")
        if not draw.random() < self.probability:
            return [], []
        others = [
            one.drawn(draw) if isinstance(one, StandIns) else one
            for one in draw.sample(self._pool(), draw.randint(1, self._most()))
        ]
        own = {"before": len(others), "after": 0}.get(self.side, draw.randint(0, len(others)))
        return others[:own], others[own:]

    def _pool(self) -> list[Any]:
        """Return the members, stand-ins as often as they may be in one step: two of them are different vectors."""
        return [one for one in self.members for _ in range(MOST_AT_ONCE if isinstance(one, StandIns) else 1)]

    def _most(self) -> int:
        return min(MOST_AT_ONCE, len(self._pool()))


def company_of(model: PolicyPatchModel, args: Any, tokenizer: Any = None) -> Company | None:
    """Load the company that the settings of a stage name; None if no step has company.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            The model with the patch to train. It is not changed.
        args ([`StageSettings`]):
            Settings; those of TRL have no company.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer.

    Raises:
        ConfigError: a patch has another placement than the trained one.
        PatchNotFoundError, PatchFileError, SignatureError, BaseMismatchError, HubError: as
            [`PolicyPatchModel.load_patch`].
        PositionLimitError: patch and company together are longer than the base's learned positions.
    """
    if not getattr(args, "stack_probability", 0):
        return None
    members = tuple(_member(model, one, tokenizer) for one in args.stack_with or (DEFAULT_STAND_IN,))
    company = Company(members, args.stack_probability, args.stack_side, args.seed)
    own = sum(model.patches[name].shape[0] for name in model.active_patches)
    check_length(model.get_base_model(), own + company.longest)
    return company


def _member(model: PolicyPatchModel, source: str, tokenizer: Any) -> Any:
    if source.startswith(STAND_IN):
        return StandIns(source.removeprefix(STAND_IN), model.get_base_model().get_input_embeddings(), tokenizer)
    place = lab_patch_folder(source.removeprefix("lab:")) if source.startswith("lab:") else source
    free = (f"company-{number}" for number in range(len(model.patches) + 1))
    name = next(name for name in free if name not in model.patches)
    with looking_once():
        model.load_patch(place, name, tokenizer=tokenizer)
    try:
        trained = trained_patch_name(model)
        check_same_place({one: model.patch_config[one] for one in (trained, name)})
        return model.patches[name].detach().clone()
    finally:
        model.delete_patch(name)


class TrainsInCompany:
    """Mixin of a transformers `Trainer` that takes some of its steps with other vectors around the patch.

    Evaluations run without company, and so does DPO's reference policy.
    """

    company: Company | None = None
    _last_step: tuple[int, int] = (-1, 0)  # the step and its batch

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take a step as upstream does, in company if it is drawn for this step."""
        if self.company is None:
            return super().training_step(model, *args, **kwargs)
        with self._drawn_company():
            return super().training_step(model, *args, **kwargs)

    @contextmanager
    def _drawn_company(self) -> Iterator[None]:
        step, part = self.state.global_step, 0
        if self._last_step[0] == step:
            part = self._last_step[1] + 1
        self._last_step = (step, part)
        before, after = self.company.drawn(step, part)
        if before or after:
            with in_company(self.accelerator.unwrap_model(self.model), before, after):
                yield
        else:
            yield
