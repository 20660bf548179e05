"""Times a generation with the patch and without it, in turns on the same machine, and returns the ratio.

Other work on the machine meets both alike. Figures of published benchmarks come from `benchmarks/overhead.py`.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from policy_patch.release.gate_file import OverheadLimits
from policy_patch.release.gate_result import FAILED, PASSED, GateRow
from policy_patch.report.intervals import Estimate, bootstrap_interval

CHECK = "time of a generation"
_PROMPT_TOKENS = 32


def median(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the median along `axis`."""
    return np.median(values, axis=axis)


def overhead_ratio(model: Any, limits: OverheadLimits, *, clock: Callable[[], float] = time.perf_counter) -> Estimate:
    """Return the median ratio of the two times, with the 95% bootstrap interval of the median over rounds.

    Each round generates `batch_size` rows of `max_new_tokens` tokens after 32 random ids, greedily and without a stop,
    once with the patch and once with the base alone; which comes first alternates. A round before the first warms up.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model; its active patches are timed.
        limits ([`OverheadLimits`]):
            How it is timed.
        clock (`Callable[[], float]`, *optional*):
            Returns seconds.
    """
    base = model.get_base_model()
    rows = base.get_input_embeddings().weight.shape[0]
    ids = torch.randint(rows, (limits.batch_size, _PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids.to(base.device), "attention_mask": torch.ones_like(ids).to(base.device)}
    how = {"max_new_tokens": limits.max_new_tokens, "min_new_tokens": limits.max_new_tokens, "do_sample": False}
    how["pad_token_id"] = 0

    def seconds(system: Any) -> float:
        _wait_for(base.device)
        start = clock()
        with torch.no_grad():
            system.generate(**inputs, **how)
        _wait_for(base.device)
        return clock() - start

    ratios = []
    for turn in range(limits.rounds + 1):
        first, second = (model, base) if turn % 2 else (base, model)
        times = {id(first): seconds(first), id(second): seconds(second)}
        ratios.append(times[id(model)] / times[id(base)])
    return bootstrap_interval(median, ratios[1:])


def overhead_row(model: Any, limits: OverheadLimits) -> GateRow:
    """Return the row of the overhead. The upper end of the interval counts, so on a busy machine it rather fails."""
    ratio = overhead_ratio(model, limits)
    figure = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
    status = PASSED if ratio.high <= limits.max_ratio else FAILED
    why = f"Median of {limits.rounds} pairs: {limits.batch_size} rows, {limits.max_new_tokens} tokens."
    todo = "" if status == PASSED else "Use fewer vectors, or time it again on an idle machine with more `rounds`."
    return GateRow(check=CHECK, status=status, figure=figure, limit=f"<= {limits.max_ratio:g} x", why=why, todo=todo)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
