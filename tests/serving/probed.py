"""A tiny patched model with two patches and a later version of the first, for the tests of the probe."""

import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from tests.tiny_models import tiny_model

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


def patched_model(tokenizer, seed=0):
    """Return a tiny model with the patches `tox` 1.0.0, `tox2` (`tox` 1.1.0, moved a little) and `bias`."""

    def config(seed, version, risk):
        return PolicyPatchConfig(num_virtual_tokens=8, init="random", init_seed=seed, patch_version=version, risk=risk)

    model = get_policy_patch_model(tiny_model("llama", seed), config(seed, "1.0.0", "toxicity"), patch_name="tox")
    model.add_patch("tox2", config(seed, "1.1.0", "toxicity"))
    model.add_patch("bias", config(seed + 1000, "0.3.0", "gender_bias"))
    with torch.no_grad():
        vectors = model.patches["tox2"]
        noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
        vectors.add_(0.3 * vectors.std() * noise)
    return model.eval()
