"""transformers' `Trainer` knows a patched model, whichever of the two is imported first, and no other is touched."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = """
from tests.training.synthetic import patched
model = patched()
from transformers import Trainer, TrainingArguments
trainer = Trainer(model, TrainingArguments(output_dir=sys.argv[1], report_to="none", use_cpu=True))
trainer.save_model()
import os
print("FILES", sorted(os.listdir(sys.argv[1])))
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code, *arguments], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "CI": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


FIRST = {
    "trainer": "import transformers.trainer\n",
    "policy_patch": "import policy_patch.model.patched_model\n"
    "assert not {'transformers.trainer', 'trl', 'policy_patch.training'} & set(sys.modules)\n",
}


@pytest.mark.parametrize("first", FIRST)
def test_a_patch_is_saved_whichever_is_imported_first(first, tmp_path):
    out = run(FIRST[first] + TRAIN, str(tmp_path))
    assert "FILES ['policy_patch.safetensors', 'policy_patch_config.json']" in out


def test_a_trainer_that_fails_to_be_imported_is_watched_at_the_next_try(tmp_path):
    broken = """
import policy_patch.model.patched_model
sys.modules["transformers.data.data_collator"] = None
try:
    import transformers.trainer
except ImportError:
    print("failed once")
del sys.modules["transformers.data.data_collator"]
"""
    out = run(broken + TRAIN, str(tmp_path))
    assert "failed once" in out
    assert "FILES ['policy_patch.safetensors', 'policy_patch_config.json']" in out


def test_the_signature_that_tools_read_is_upstream_s():
    import transformers

    import policy_patch.model.patched_model  # noqa: F401

    parameters = list(inspect.signature(transformers.Trainer).parameters)
    assert parameters[:3] == ["model", "args", "data_collator"] and "kwargs" not in parameters
    assert parameters == list(inspect.signature(transformers.Trainer.__init__).parameters)[1:]
