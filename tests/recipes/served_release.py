"""A released patch of the lab with its report and its probe, and the real gateway before an engine on loopback."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from policy_patch.answers.served_probe import record_probe
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.model import PolicyPatchModel
from policy_patch.recipes import EvaluateRecipe
from policy_patch.serving.gateway import gateway_app
from policy_patch.serving.gateway_setup import GatewaySettings, open_gateway

PROMPTS = "lab:toxicity/test"
_ENGINE = Path(__file__).parents[2] / "examples" / "lab_engine.py"
_spec = importlib.util.spec_from_file_location("lab_engine", _ENGINE)
lab_engine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lab_engine)


@cache
def released() -> Path:
    """Return the folder of the lab's toxicity patch with an `evaluation.json` and a probe."""
    folder = Path(tempfile.mkdtemp(prefix="policy-patch-release-")) / "tox"
    shutil.copytree(lab_patch_folder("toxicity"), folder)
    EvaluateRecipe(
        patches=[str(folder)], prompts=PROMPTS, num_prompts=36, num_samples=2, max_new_tokens=12,
        scorers=["lab-insults"], num_resamples=20,
    ).run()  # fmt: skip
    shutil.rmtree(folder / "evaluation-answers")
    record_probe(PolicyPatchModel.from_pretrained(load_lab_base(), folder, "tox"), load_lab_tokenizer(), folder)
    return folder


@contextmanager
def gateway(*specs: str) -> Iterator[tuple[str, object]]:
    """Serve patches and the base in a gateway before an engine; give the gateway's address and the engine."""
    engine = lab_engine.LabEngine()
    with lab_engine.serving(engine.app()) as upstream:
        settings = GatewaySettings(upstreams=[upstream], patches=specs, chat=False, allow_base=True, name="base")
        opened, _ = open_gateway(settings)
        with lab_engine.serving(gateway_app(opened)) as url:
            yield url, engine
