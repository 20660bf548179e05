"""The scan of a policy is imported when it is asked for; what it refuses is in `tests/release/test_scan_at_load.py`."""

import subprocess
import sys

import pytest

from policy_patch import PolicyPatchModel
from policy_patch.lab import lab_patch_folder, load_lab_base
from policy_patch.model import scan_hook
from policy_patch.patch.folder import read_patch_folder
from policy_patch.trust.policy_file import PatchPolicy

POLICY = PatchPolicy.from_toml("[scan]\nrequired = true\n")


def test_loading_a_patch_without_a_policy_imports_no_scan():
    code = (
        "import sys\nfrom policy_patch import PolicyPatchModel\nfrom policy_patch.lab import *\n"
        "PolicyPatchModel.from_pretrained(load_lab_base(), lab_patch_folder('toxicity'))\n"
        "print([name for name in sys.modules if name.startswith('policy_patch.release')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_scan_gets_a_wrapper_with_the_patch_alone_and_the_base_stays_frozen_as_it_was(monkeypatch):
    seen = []

    class Module:
        @staticmethod
        def refuse_hostile(model, tokenizer, source, policy, is_its_base):
            seen.append((model.active_patches, model.get_base_model() is base, tokenizer, source, policy.source))
            raise ValueError("refused")

    monkeypatch.setattr(scan_hook, "import_module", lambda name: Module)
    base = load_lab_base()
    model = PolicyPatchModel(base)
    config, vectors = read_patch_folder(lab_patch_folder("toxicity"))
    with pytest.raises(ValueError, match="refused"):
        scan_hook.check_scanned(model, config, vectors, "t", "s", policies=[POLICY, PatchPolicy()])
    assert seen == [(["scanned"], True, "t", "s", "the policy")]
    assert not any(each.requires_grad for each in base.parameters()), "the outer model still holds it"
    model.unload()
    assert all(each.requires_grad for each in base.parameters())
