"""The interface of all sources of answers: their sampling settings, and the method that answers prompts.

The sources themselves are in `answering.py`, `endpoint.py` and `vllm_engine.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from policy_patch.answers.sampling import Answer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings of sampling; see [`sample_answers`]."""

    num_samples: int
    max_new_tokens: int
    top_p: float
    temperature: float
    batch_size: int
    seed: int

    def identity(self) -> dict[str, Any]:
        """Return the settings that change the answers: all except the batch size."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}


@runtime_checkable
class Answering(Protocol):
    """A source of answers. Stored answers are reused for a source with the same `name` and the same settings."""

    name: str

    def answer(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        occurrences: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Answer]]:
        """Return `sampling.num_samples` answers to each prompt.

        Args:
            prompts (`Sequence[str]`):
                At least one.
            sampling (`Sampling`):
                Settings.
            occurrences (`Sequence[int]`):
                For each prompt, the number of equal prompts before it in the whole run. It is part of the random seed.
            on_progress (`Callable[[int, int], None]`, *optional*):
                Called with the number of answers done and wanted.
        """
        ...
