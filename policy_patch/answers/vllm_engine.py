"""Gets answers from a vLLM engine in this process.

Written against vLLM's documented interface (`LLM.generate`, `SamplingParams`) and tested with a stand-in, because vLLM
was not installed where this was written.
"""

from collections.abc import Callable, Sequence
from typing import Any

from policy_patch.answers.protocol import Sampling
from policy_patch.answers.sampling import Answer
from policy_patch.answers.seeds import request_seed


class VLLMAnswers:
    """Answers prompts with a `vllm.LLM`, which makes its own batches and draws from a seed per prompt.

    Args:
        engine (`vllm.LLM`):
            The engine.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        config = engine.llm_engine.model_config
        self.name = f"{config.model}{f'@{config.revision}' if getattr(config, 'revision', None) else ''} on vLLM"

    def answer(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        occurrences: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Answer]]:
        """Return the engine's answers to each prompt; see [`Answering`]."""
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                n=sampling.num_samples,
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=request_seed(sampling.seed, prompt, occurrence, 0),
            )
            for prompt, occurrence in zip(prompts, occurrences, strict=True)
        ]
        requests = self._engine.generate(list(prompts), settings, use_tqdm=False)
        if on_progress is not None:
            on_progress(len(prompts) * sampling.num_samples, len(prompts) * sampling.num_samples)
        return [[Answer(out.text, out.finish_reason == "stop") for out in request.outputs] for request in requests]
