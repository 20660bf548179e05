"""What all sources of answers have in common: the sampling settings they take and the method they answer with.

The sources themselves are in `answering.py`, `endpoint.py` and `vllm_engine.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from policy_patch.answers.sampling import Answer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are sampled; see [`sample_answers`]."""

    num_samples: int
    max_new_tokens: int
    top_p: float
    temperature: float
    batch_size: int
    seed: int

    def identity(self) -> dict[str, Any]:
        """Return what decides which answers are sampled; batches do not."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}


@runtime_checkable
class Answering(Protocol):
    """Answers prompts. Its `name` decides, with the settings, which answers are taken for the same."""

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
                For each prompt, how many equal ones stand before it in the whole run: part of its randomness.
            on_progress (`Callable[[int, int], None]`, *optional*):
                Called with the number of answers done and wanted.
        """
        ...
