"""Models and prompts by the names given on a command line; `lab:` names are those that come with the package."""

import os
import re
from typing import TYPE_CHECKING, Any

from policy_patch.answers.addresses import shown_spec
from policy_patch.base.loading import load_errors, load_pretrained
from policy_patch.data import load_prompts, occupation_prompts, public_prompts
from policy_patch.data.public_sets import PUBLIC_PROMPTS
from policy_patch.errors import DataError, ModelLoadError
from policy_patch.privacy.local_names import without_folders

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LAB_MODELS = ("lab:base", "lab:teacher")
ANSWERING_HELP = "`openai:<model>@<address>/v1` is one that is served elsewhere, `chat:` one that only chats."
MODEL_HELP = "Hub id or folder of a causal language model; `lab:base` and `lab:teacher` come with the package."
PROMPTS_HELP = (
    "File of prompts (.txt: one a line; .jsonl, .json, .csv or .parquet: `prompt`), a dataset on the Hub "
    "(`org/prompts@<commit>`), `occupations/train` and `occupations/test` (openings about people at work; of your own "
    "list: `occupations:<file>/test`), `realtoxicityprompts[/challenging]`, `winobias/test`, `jailbreakbench/harmful` "
    "and `jailbreakbench/benign` (fetched from the Hub), or the lab's `lab:toxicity/train` and `lab:toxicity/test`."
)


def load_model(
    name: str, *, device: str | None = None, dtype: str = "auto", revision: str | None = None
) -> tuple["PreTrainedModel", Any]:
    """Return a causal language model and its tokenizer.

    Args:
        name (`str`):
            Hub id, folder or `lab:` name.
        device (`str`, *optional*):
            Where to put it. Defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Type of the weights. "auto" is the stored one on an accelerator and float32 on a CPU, where half precision
            is several times slower.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.

    Raises:
        ModelLoadError: no such model, or it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if is_endpoint(name):
        raise ModelLoadError(
            f"`{shown_spec(name)}` is served elsewhere and can only answer prompts; here its weights are needed. Give "
            "a Hub id or a folder."
        )
    if device is None:
        device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
        if device != "cpu" and "LOCAL_RANK" in os.environ:  # each process that a launcher started has its own
            device = f"{device.partition(':')[0]}:{os.environ['LOCAL_RANK']}"
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    weights = dtype if dtype == "auto" else getattr(torch, dtype)
    if name.startswith("lab:"):
        from policy_patch.lab import load_lab_base, load_lab_teacher, load_lab_tokenizer

        if name not in LAB_MODELS:
            raise ModelLoadError(f"There is no model `{name}`; the lab has {' and '.join(LAB_MODELS)}.")
        loader = load_lab_base if name == "lab:base" else load_lab_teacher
        return loader(torch.float32 if weights == "auto" else weights).to(device), load_lab_tokenizer()
    model = load_pretrained(
        AutoModelForCausalLM,
        name,
        advice="Give the Hub id or the folder of a causal language model.",
        dtype=weights,
        revision=revision,
    )
    return model.to(device).eval(), load_tokenizer(name, revision)


def load_answering(name: str, *, device: str | None = None, dtype: str = "auto") -> tuple[Any, Any]:
    """Return what answers prompts by that name, and its tokenizer: a model, or an endpoint, which has its own.

    Raises:
        ModelLoadError: as [`load_model`].
        EndpointError: an endpoint without model or address in its name.
    """
    if not is_endpoint(name):
        return load_model(name, device=device, dtype=dtype)
    from policy_patch.answers.endpoint import endpoint_from

    return endpoint_from(name), None


def is_endpoint(name: str) -> bool:
    """Whether a name is of a model that is served elsewhere."""
    return name.startswith(("openai:", "chat:"))


def load_tokenizer(name: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model.

    Raises:
        ModelLoadError: there is none.
    """
    from transformers import AutoTokenizer

    if name in LAB_MODELS:
        from policy_patch.lab import load_lab_tokenizer

        return load_lab_tokenizer()
    with load_errors(f"the tokenizer of `{name}`"):
        return AutoTokenizer.from_pretrained(name, revision=revision)


def same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers have the same vocabulary; one that is not known has none."""
    return one is other or (one is not None and other is not None and one.get_vocab() == other.get_vocab())


def prompts_of(spec: str) -> list[str]:
    """Return the prompts of a file, of `occupations/<split>`, `<risk>/<split>`, a public name or `lab:<set>/<split>`.

    Raises:
        DataError: no such file or set.
        HubError: the Hub does not give them.
    """
    if spec in PUBLIC_PROMPTS:
        return public_prompts(spec)[0]
    if occupations := re.fullmatch(r"occupations(?::(.+))?/(train|test)", spec):
        return occupation_prompts(occupations[2], occupations[1])
    if not spec.startswith("lab:"):
        from policy_patch.evaluation.risks import own_prompts

        own = own_prompts(spec)
        return load_prompts(spec) if own is None else prompts_of(own) if isinstance(own, str) else list(own)
    from policy_patch.lab import lab_prompts

    risk, _, split = spec.removeprefix("lab:").partition("/")
    if not split:
        raise DataError(f"`{spec}` names no split; expected e.g. `lab:toxicity/train` or `lab:toxicity/test`.")
    return lab_prompts(risk, split)


def categories_of(spec: str, count: int) -> list[str] | None:
    """Return the category of each of the first `count` prompts of a source that has them, else None."""
    from pathlib import Path

    from policy_patch.data.readers import read_rows

    if spec in PUBLIC_PROMPTS:
        return public_prompts(spec)[1][:count]
    if not os.path.isfile(spec) or Path(spec).suffix == ".txt":
        return None
    found = [row.get("category") if isinstance(row, dict) else None for _, row in read_rows(Path(spec))][:count]
    return [str(category) for category in found] if all(found) else None


def display_name(name: str) -> str:
    """Return how a model is called in a report: its Hub id, the last part of its folder, the host of an endpoint."""
    return shown_spec(name) if is_endpoint(name) else without_folders(name)
