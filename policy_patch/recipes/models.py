"""Loads models by their names in recipes and command lines: Hub ids, folders, endpoints, and `lab:` names of the lab.

`patched.py` loads patches; `prompts.py` loads prompts.
"""

import os
from typing import TYPE_CHECKING, Any

from policy_patch.answers.addresses import shown_spec
from policy_patch.base.loading import load_config, load_errors, load_pretrained, no_folder
from policy_patch.errors import ConfigError, ModelLoadError
from policy_patch.near_names import did_you_mean
from policy_patch.privacy.local_names import without_folders

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64", "float", "half", "double")
LAB_MODELS = ("lab:base", "lab:teacher")
ANSWERING_HELP = (
    "`openai:<model>@<address>/v1` names a model on a server; use `chat:` instead of `openai:` for a server that only "
    "offers chat."
)
REPLICAS_HELP = "`openai:<model>@<address>/v1` or `chat:...`; join the addresses of several replicas by commas."
MODEL_HELP = "Hub id or folder of a causal language model; `lab:base` and `lab:teacher` come with the package."


def load_model(
    name: str, *, device: str | None = None, dtype: str = "auto", revision: str | None = None
) -> tuple["PreTrainedModel", Any]:
    """Load a causal language model and its tokenizer.

    Args:
        name (`str`):
            Hub id, folder or `lab:` name.
        device (`str`, *optional*):
            Device of the model, such as `"cuda"`. Defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the weights. `"auto"` keeps the stored dtype on an accelerator, and is float32 on a CPU, where half
            precision is several times slower.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.

    Returns:
        The model, in eval mode, and its tokenizer.

    Raises:
        ModelLoadError: the model does not exist, is an endpoint, or cannot be loaded.
        ConfigError: there is no such dtype, or no such device here.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_has_weights(name)
    check_place(device, dtype)
    if device is None:
        device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
        if device != "cpu" and "LOCAL_RANK" in os.environ:  # under a launcher, each process has its own device
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


def check_place(device: str | None, dtype: str) -> None:
    """Raise `ConfigError` for a dtype that weights cannot have, or a device that this machine or this torch lacks.

    Args:
        device, dtype (`str`):
            As in [`load_model`].
    """
    import torch

    if dtype not in DTYPES:
        hint = did_you_mean(dtype, DTYPES, otherwise="")
        raise ConfigError(f"`dtype={dtype!r}`: expected one of {', '.join(DTYPES)}. {hint}".rstrip())
    if device is None:
        return
    try:
        works = torch.empty(1, device=device).device.type != "meta"
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(f"`device={device!r}` cannot be used here: {reason}. Give another, such as cpu.") from error
    if not works:
        raise ConfigError(f"`device={device!r}` holds no values. Give another, such as cpu.")


def load_answering(name: str, *, device: str | None = None, dtype: str = "auto") -> tuple[Any, Any]:
    """Load a model and its tokenizer, or an endpoint and None. An endpoint needs no tokenizer here.

    Args:
        name (`str`):
            Name of a model, as in [`load_model`], or `openai:<model>@<address>/v1`, or the same with `chat:`.
        device, dtype (`str`, *optional*):
            As in [`load_model`].

    Raises:
        ModelLoadError: as [`load_model`].
        EndpointError: the name of an endpoint lacks the model or the address.
    """
    if not is_endpoint(name):
        return load_model(name, device=device, dtype=dtype)
    from policy_patch.answers.endpoint import endpoint_from

    return endpoint_from(name), None


def check_has_weights(name: str) -> None:
    """Raise `ModelLoadError` for a name that cannot be loaded: an endpoint, an unknown lab model or a missing folder.

    No request is sent to the Hub, so the name of a missing repository passes.
    """
    if is_endpoint(name):
        raise ModelLoadError(
            f"`{shown_spec(name)}` is a model on a server and can only answer prompts, but here its weights are "
            "needed. Give a Hub id or a folder."
        )
    if name.startswith("lab:") and name not in LAB_MODELS:
        raise ModelLoadError(f"There is no model `{name}`; the lab has {' and '.join(LAB_MODELS)}.")
    if name.startswith(("/", "./", "../", "~")) and not os.path.isdir(os.path.expanduser(name)):
        raise ModelLoadError(f"Cannot load the model `{name}`: there is no such folder.")


def check_can_load(*names: str | None) -> None:
    """Raise `ModelLoadError` for the first model whose configuration cannot be read. Call it before a model is loaded.

    Args:
        names (`str`, *optional*):
            Names of models. None, endpoints and the lab's models are passed over.
    """
    for name in names:
        if name is not None and not is_endpoint(name) and name not in LAB_MODELS:
            load_config(name)


def is_endpoint(name: str) -> bool:
    """Return whether a name is that of an endpoint, a model on a server."""
    return name.startswith(("openai:", "chat:"))


def load_tokenizer(name: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model.

    Raises:
        ModelLoadError: the tokenizer does not exist or cannot be loaded.
    """
    from transformers import AutoTokenizer

    if name in LAB_MODELS:
        from policy_patch.lab import load_lab_tokenizer

        return load_lab_tokenizer()
    with load_errors(f"the tokenizer of `{name}`", no_folder(name)):
        return AutoTokenizer.from_pretrained(name, revision=revision)


def same_tokenizer(one: Any, other: Any) -> bool:
    """Return whether two tokenizers have the same vocabulary; False if only one of them is None."""
    return one is other or (one is not None and other is not None and one.get_vocab() == other.get_vocab())


def display_name(name: str) -> str:
    """Return the name of a model in reports, without private parts of folders and addresses."""
    return shown_spec(name) if is_endpoint(name) else without_folders(name)
