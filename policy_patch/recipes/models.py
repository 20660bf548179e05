"""Models by the names that recipes and command lines give: Hub ids, folders, endpoints and the lab's `lab:` names.

Which prompts they get is settled in `prompts.py`; patches on a base are opened in `patched.py`.
"""

import os
from typing import TYPE_CHECKING, Any

from policy_patch.answers.addresses import shown_spec
from policy_patch.base.loading import load_errors, load_pretrained
from policy_patch.errors import ModelLoadError
from policy_patch.privacy.local_names import without_folders

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LAB_MODELS = ("lab:base", "lab:teacher")
ANSWERING_HELP = "`openai:<model>@<address>/v1` is one that is served elsewhere, `chat:` one that only chats."
REPLICAS_HELP = "`openai:<model>@<address>/v1`, or `chat:`; of several replicas the addresses, joined by commas."
MODEL_HELP = "Hub id or folder of a causal language model; `lab:base` and `lab:teacher` come with the package."


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

    check_has_weights(name)
    if device is None:
        device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
        if device != "cpu" and "LOCAL_RANK" in os.environ:  # each process that a launcher started has its own
            device = f"{device.partition(':')[0]}:{os.environ['LOCAL_RANK']}"
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    weights = dtype if dtype == "auto" else getattr(torch, dtype)
    if name.startswith("lab:"):
        from policy_patch.lab import load_lab_base, load_lab_teacher, load_lab_tokenizer

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


def check_has_weights(name: str) -> None:
    """Raise `ModelLoadError` for a name of which nothing can be loaded, whatever is on the Hub."""
    if is_endpoint(name):
        raise ModelLoadError(
            f"`{shown_spec(name)}` is served elsewhere and can only answer prompts; here its weights are needed. Give "
            "a Hub id or a folder."
        )
    if name.startswith("lab:") and name not in LAB_MODELS:
        raise ModelLoadError(f"There is no model `{name}`; the lab has {' and '.join(LAB_MODELS)}.")
    if name.startswith(("/", "./", "../", "~")) and not os.path.isdir(os.path.expanduser(name)):
        raise ModelLoadError(f"Cannot load the model `{name}`: there is no such folder.")


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


def display_name(name: str) -> str:
    """Return how a model is called in a report: its Hub id, the last part of its folder, the host of an endpoint."""
    return shown_spec(name) if is_endpoint(name) else without_folders(name)
