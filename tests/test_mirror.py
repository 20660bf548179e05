"""Tests of the tests: each module has a test file of its own name, or is named here with the file that covers it.

The other way, too: a test file that mirrors no module says here what it is about, and that has to be there.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from policy_patch.cli import COMMANDS
from tests.test_layers import BY_NAME, MODULES, PACKAGE, imported_modules, own_imports

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Module -> the test file that covers it. It imports the module, or another one that does, or runs it as a command.
COVERED = {
    "_version.py": "test_init.py",
    "answers/protocol.py": "answers/test_answering.py",
    "base/architecture.py": "injection/test_self_check.py",
    "base/comparison.py": "base/test_fingerprint.py",
    "base/recorded_fingerprint.py": "base/test_fingerprint.py",
    "base/served_base.py": "export/test_prompt_embeds.py",
    "base/settings.py": "base/test_fingerprint.py",
    "base/sizes.py": "base/test_fingerprint.py",
    "base/token_embeddings.py": "base/test_probe.py",
    "base/tokenizer_hash.py": "base/test_fingerprint.py",
    "base/undisturbed.py": "base/test_probe.py",
    "base/weight_samples.py": "base/test_fingerprint.py",
    "base/weights.py": "base/test_fingerprint.py",
    "cli/__main__.py": "cli/test_init.py",
    "cli/options.py": "cli/test_train.py",
    "cli/apply.py": "cli/test_lock.py",
    "cli/audit.py": "cli/test_lock.py",
    "cli/pull.py": "cli/test_push_and_pull.py",
    "cli/rollback.py": "cli/test_lock.py",
    "cli/status.py": "cli/test_lock.py",
    "cli/upgrade.py": "cli/test_lock.py",
    "release/audited.py": "release/test_auditing.py",
    "cli/push.py": "cli/test_push_and_pull.py",
    "data/public_sets.py": "data/test_hub_datasets.py",
    "data/scored.py": "data/test_pairs.py",
    "evaluation/asking.py": "evaluation/test_evaluate.py",
    "evaluation/measured_patches.py": "evaluation/test_costs.py",
    "evaluation/observed.py": "evaluation/test_harmfulness.py",
    "evaluation/toxicity.py": "report/test_report.py",
    "export/__init__.py": "test_lazy.py",
    "hub/__init__.py": "test_lazy.py",
    "hub/errors.py": "hub/test_failures.py",
    "hub/fetch.py": "hub/test_round_trip.py",
    "hub/place.py": "hub/test_push_rules.py",
    "hub/publishing.py": "hub/test_push_rules.py",
    "hub/versions.py": "hub/test_push_rules.py",
    "injection/findings.py": "injection/test_self_check.py",
    "injection/generation.py": "injection/test_inference.py",
    "injection/priming.py": "injection/test_injection.py",
    "injection/static_cache.py": "injection/test_call_inputs.py",
    "lab/dialogues.py": "lab/test_grammar.py",
    "lab/lexicon.py": "lab/test_grammar.py",
    "lab/stories.py": "lab/test_build.py",
    "model/__init__.py": "test_lazy.py",
    "model/ids.py": "model/test_files.py",
    "model/state_dict.py": "model/test_patched_model.py",
    "model_card/__init__.py": "test_lazy.py",
    "model_card/eval_results.py": "model_card/test_card.py",
    "patch/composing.py": "model/test_named_patches.py",
    "recipes/opened.py": "recipes/test_gated.py",
    "recipes/perplexity.py": "recipes/test_evaluate.py",
    "release/gate_template.py": "release/test_gate_file.py",
    "release/gated_push.py": "hub/test_policy_gates.py",
    "recipes/train_sections.py": "recipes/test_train.py",
    "report/metric.py": "report/test_report.py",
    "report/notes.py": "report/test_tables.py",
    "report/records.py": "report/test_report.py",
    "report/system_names.py": "report/test_plots.py",
    "serving/patched_requests.py": "serving/test_client.py",
    "training/_trl.py": "training/test_trl_contract.py",
    "release/__init__.py": "test_lazy.py",
    "serving/__init__.py": "test_lazy.py",
    "trust/bundle.py": "trust/test_verifying.py",
    "trust/signed_files.py": "trust/test_verifying.py",
    "trust/signers.py": "trust/test_verifying.py",
    "recipes/served_options.py": "recipes/test_canary.py",
    "ui/__init__.py": "test_lazy.py",
    "ui/fetching.py": "ui/test_guests.py",
    "ui/looks.py": "ui/test_page_is_readable.py",
    "ui/training_run.py": "ui/test_train.py",
}

# Test files that mirror no module -> what they are about: a module, a room, or something else of the repository.
SUBJECTS = {
    "base/test_architectures.py": "policy_patch/base",
    "base/test_relatives.py": "policy_patch/base/fingerprint.py",
    "cli/test_evaluate_stack.py": "policy_patch/cli/evaluate.py",
    "cli/test_lab_patches.py": "policy_patch/cli",
    "cli/test_exit_codes.py": "policy_patch/cli",
    "cli/test_policy.py": "policy_patch/cli",
    "cli/test_printed_commands.py": "policy_patch",
    "journeys/test_customer.py": "docs/lock.md",
    "journeys/test_researcher.py": "docs/evaluation.md",
    "journeys/test_vendor.py": "README.md",
    "cli/test_push_and_pull.py": "policy_patch/cli",
    "cli/test_terminal.py": "policy_patch/cli",
    "engines/test_baked.py": "policy_patch/export/baking.py",
    "engines/test_probe.py": "policy_patch/serving/probing.py",
    "engines/test_transformers_4.py": "policy_patch/export/surgery.py",
    "engines/test_llama_cpp.py": "policy_patch/export",
    "engines/test_llama_cpp_k_quants.py": "policy_patch/export/gguf_edit.py",
    "engines/test_llama_cpp_kinds.py": "policy_patch/export",
    "engines/test_llama_cpp_templates.py": "policy_patch/export/chat_template.py",
    "evaluation/test_evaluate_risks.py": "policy_patch/evaluation/evaluate.py",
    "evaluation/test_own_risk.py": "policy_patch/evaluation/risks.py",
    "evaluation/test_systems_opened.py": "policy_patch/evaluation/systems.py",
    "hub/test_failures.py": "policy_patch/hub",
    "hub/test_hostile.py": "policy_patch/hub",
    "hub/test_push_rules.py": "policy_patch/hub/push.py",
    "hub/test_round_trip.py": "policy_patch/hub",
    "hub/test_scenarios.py": "policy_patch/hub",
    "hub/test_signed_push.py": "policy_patch/hub/push.py",
    "hub/test_wrong_base.py": "policy_patch/model/files.py",
    "injection/test_copies.py": "policy_patch/injection",
    "injection/test_decoding.py": "policy_patch/injection",
    "injection/test_exactness.py": "policy_patch/injection",
    "injection/test_multimodal.py": "policy_patch/injection",
    "injection/test_patch_names.py": "policy_patch/injection",
    "injection/test_threads.py": "policy_patch/injection",
    "injection/test_wrapped.py": "policy_patch/injection",
    "release/test_lock_pages.py": "docs/lock.md",
    "report/test_evaluation_format.py": "docs/evaluation_format.md",
    "serving/test_gateway_lock.py": "policy_patch/serving/gateway_setup.py",
    "model/test_stack_rules.py": "policy_patch/model/named_patches.py",
    "patch/test_two_writers.py": "policy_patch/patch/folder.py",
    "test_data_page.py": "docs/data.md",
    "test_distribution.py": "tests/distribution.py",
    "test_examples.py": "examples",
    "test_hang_guard.py": "tests/hang_guard.py",
    "test_hostile_documents.py": "policy_patch/files",
    "test_layers.py": "policy_patch",
    "test_mirror.py": "tests",
    "test_gpu.py": "benchmarks/gpu.py",
    "test_overhead.py": "benchmarks/overhead.py",
    "test_splits.py": "benchmarks/splits.py",
    "test_tables.py": "benchmarks/tables.py",
    "test_paper_tables.py": "benchmarks/paper_tables.py",
    "test_public_api.py": "tests/public_api.py",
    "test_readme.py": "README.md",
    "test_slow_tests.py": "tests/slow_tests.py",
    "test_stored_run.py": "benchmarks/stored_run.py",
    "training/test_distributed.py": "policy_patch/training",
    "training/test_filtering_scorers.py": "policy_patch/training",
    "training/test_formats.py": "policy_patch/training/dataset.py",
    "training/test_fused_head.py": "policy_patch/training/_trl.py",
    "training/test_kill.py": "policy_patch/training/checkpoints.py",
    "training/test_memory.py": "policy_patch/training",
    "training/test_peft_oracle.py": "policy_patch/training",
    "training/test_save_failures.py": "policy_patch/training/_trl.py",
    "training/test_trl_contract.py": "policy_patch/training/_trl.py",
    "recipes/test_served.py": "policy_patch/recipes",
    "ui/test_disabled_streams.py": "policy_patch/injection/disabling.py",
    "ui/test_page_in_browser.py": "policy_patch/ui",
    "ui/test_page_is_readable.py": "policy_patch/ui/looks.py",
    "trust/test_conformance.py": "policy_patch/trust/verifying.py",
    "ui/test_policy.py": "policy_patch/ui/fetching.py",
    "ui/test_public_page.py": "policy_patch/ui",
}


def test_file_of(module: str) -> str:
    """Return the test file that mirrors a module; both as paths below `policy_patch/` and `tests/`."""
    path = Path(module)
    return (path.parent / f"test_{path.stem.strip('_')}.py").as_posix()


test_file_of.__test__ = False

SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in MODULES.values()}
WITH_CODE = [name for name, path in SOURCES.items() if len(ast.parse(path.read_text()).body) > 1]
MIRRORED = {test_file_of(name): name for name in SOURCES}
THERE = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}


def public(module: str, name: str) -> str:
    """Return where a public name of a package lives; other names are looked for in the package itself."""
    return getattr(import_module(module), "_MODULE_OF", {}).get(name, f"{module}.{name}")


@cache
def reached(file: Path) -> frozenset[str]:
    """Return the modules that a test file imports: itself, by a helper, in a program or by a command that it starts."""
    tree = ast.parse(file.read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = {f"{word}.__main__" for word in words if word in MODULES}
    for program in (tree, *filter(None, map(program_of, words))):
        for node in ast.walk(program):
            for module in imported_modules(node, PACKAGE / "test.py"):
                names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
                found |= {module, *(public(module, name) for name in names if module in MODULES)}
                for one in (module, *(f"{module}.{name}" for name in names)):
                    helper = ROOT / f"{one.replace('.', '/')}.py"
                    if one.startswith("tests.") and helper.is_file() and not helper.name.startswith("test_"):
                        found |= reached(helper)
    fixtures = file.with_name("conftest.py")
    if fixtures.is_file() and file.name.startswith("test_") and file.parent != TESTS:
        found |= reached(fixtures)
    if "policy_patch.cli" in found:
        found |= {f"policy_patch.cli.{command}" for command in COMMANDS if command in words}
    return frozenset(found)


def program_of(text: str) -> ast.AST | None:
    """Return a text as a program, if it is one that imports our package."""
    if "import" not in text or "policy_patch" not in text:
        return None
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def beside(modules: frozenset[str]) -> frozenset[str]:
    """Return modules with those that they import, or look up by name while they run."""
    by_name = {imported for file, imported in BY_NAME if name_of(file) in modules}
    return modules | by_name | {inner for name in modules & MODULES.keys() for inner in own_imports(MODULES[name])}


def exercises(file: Path, module: str, steps: int = 1) -> bool:
    """Whether a test file imports a module, or in so many steps one that imports it."""
    found = reached(file)
    for _ in range(steps):
        found = beside(found)
    return module in found


def name_of(source: str) -> str:
    return ".".join(["policy_patch", *Path(source).with_suffix("").parts]).removesuffix(".__init__")


@pytest.mark.parametrize("module", WITH_CODE)
def test_a_module_has_tests(module):
    mirror = test_file_of(module)
    file = mirror if mirror in THERE else COVERED.get(module)
    assert file, f"write tests/{mirror}, or name in `COVERED` the test file that covers policy_patch/{module}"
    assert file in THERE, f"tests/{file} is not there"
    steps = 4 if file == mirror else 2  # its own name says what a test file is about
    assert exercises(TESTS / file, name_of(module), steps), f"tests/{file} does not import policy_patch/{module}"


def test_no_module_is_named_as_covered_elsewhere_that_has_a_test_file_or_is_gone():
    assert [module for module in COVERED if test_file_of(module) in THERE or module not in SOURCES] == []


def test_a_test_file_has_its_module_or_says_what_it_is_about():
    assert THERE - MIRRORED.keys() == SUBJECTS.keys()


@pytest.mark.parametrize("file", SUBJECTS)
def test_what_a_test_file_is_about_is_there(file):
    assert (ROOT / SUBJECTS[file]).exists()


def test_a_file_that_only_mentions_a_module_does_not_exercise_it(tmp_path):
    file = tmp_path / "test_x.py"
    file.write_text('"""Tests of `report.intervals`."""\nfrom policy_patch import errors\nassert "pull"\n')
    assert not exercises(file, "policy_patch.report.intervals") and not exercises(file, "policy_patch.cli.pull")
    (tmp_path / "test_y.py").write_text(
        "from policy_patch.ui import build_demo\nfrom policy_patch.report import tables\n"
    )
    assert exercises(tmp_path / "test_y.py", "policy_patch.ui.page"), "by its public name"
    assert exercises(tmp_path / "test_y.py", "policy_patch.ui.compare"), "`page` imports it"
    assert not exercises(tmp_path / "test_y.py", "policy_patch.evaluation.toxicity")
