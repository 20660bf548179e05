"""Tests of `evaluation.lm_eval_model`: lm-eval's figures are those of plain concatenation, row by row.

Without lm-eval these are skipped, but for those that say what is missing then.
"""

import json
import math
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.errors import (
    EvaluationError,
    MissingExtraError,
    ModelLoadError,
    PatchNameError,
    PatchNotFoundError,
    PositionLimitError,
)
from policy_patch.evaluation import lm_eval_model
from policy_patch.lab import LAB_MODELS_PATH, load_lab_base, load_lab_tokenizer
from tests.definition import generate_by_definition, logits_by_definition
from tests.tiny_models import BOS, tiny_model, tiny_tokenizer

LENGTH = 3
PAIRS = [("Ann is", " kind"), ("", "You"), ("The dog ran far away", " home."), ("Ann is", " a"), ("Ann is ", "b")]
LAB_BASE = str(LAB_MODELS_PATH / "base")


@pytest.fixture
def lm_eval():
    """The harness, where it is installed."""
    pytest.importorskip("lm_eval.models.huggingface")
    return pytest.importorskip("lm_eval")


@pytest.fixture
def instances(lm_eval):
    """Make lm-eval's requests of tuples of arguments."""
    from lm_eval.api.instance import Instance

    return lambda kind, rows: [Instance(kind, {}, row, index) for index, row in enumerate(rows)]


def patched_model(family="llama", placement="after_bos", seed=0, **config):
    config = {"num_virtual_tokens": LENGTH, "init": "vocab", "placement": placement, "init_seed": seed, **config}
    return get_policy_patch_model(tiny_model(family), PolicyPatchConfig(**config))


def harness(model, tokenizer=None, **settings):
    settings = {"batch_size": 4, **settings}
    return lm_eval_model.PolicyPatchLM(model, tokenizer=tokenizer or tiny_tokenizer(), **settings)


def without_habit():
    """Return the tiny tokenizer without the habit of putting BOS in front, as GPT-2's."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    return tokenizer


@torch.no_grad()
def score(model, context, continuation, placement="after_bos"):
    """Return log-likelihood of the ids `continuation` behind the ids `context`, and whether greedy decoding says it."""
    base = model.get_base_model()
    vectors = torch.cat([model.patches[name] for name in model.active_patches])
    logits = logits_by_definition(base, vectors, context + continuation[:-1], placement)[len(context) - 1 :]
    target = torch.tensor(continuation)
    total = logits.log_softmax(-1).gather(1, target[:, None]).sum()
    return float(total), bool((logits.argmax(-1) == target).all())


def ids_of_pair(tokenizer, context, continuation, habit=True):
    """Return the ids of both halves as lm-eval splits them: spaces at the end belong to the continuation."""
    text = tokenizer.encode(context + continuation, add_special_tokens=False)
    split = len(tokenizer.encode(context.rstrip(" "), add_special_tokens=False))
    bos = [BOS] if habit or not context else []
    return bos + text[:split], text[split:]


# Log-likelihoods


@pytest.mark.parametrize("placement", ["after_bos", "before_bos"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_log_likelihoods_are_those_of_plain_concatenation(instances, family, batch_size, placement):
    model = patched_model(family, placement)
    found = harness(model, batch_size=batch_size).loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)
    for pair, (total, greedy) in zip(PAIRS, found, strict=True):
        expected = score(model, *ids_of_pair(tiny_tokenizer(), *pair), placement)
        assert total == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_rows_without_bos_stay_so_where_the_tokenizer_has_no_such_habit(instances, batch_size):
    model, tokenizer = patched_model("gpt2"), without_habit()
    found = harness(model, tokenizer, batch_size=batch_size).loglikelihood(instances("loglikelihood", PAIRS))
    for pair, (total, _) in zip(PAIRS, found, strict=True):
        assert total == pytest.approx(score(model, *ids_of_pair(tokenizer, *pair, habit=False))[0], abs=1e-4)


def test_what_greedy_decoding_says_is_called_greedy(instances):
    tokenizer = load_lab_tokenizer()
    config = PolicyPatchConfig(num_virtual_tokens=LENGTH, init="vocab")
    model = get_policy_patch_model(load_lab_base(), config, tokenizer)
    vectors = model.patches["default"].detach()
    ids = generate_by_definition(model.get_base_model(), vectors, tokenizer.encode("Anna is"), 1)
    said = tokenizer.decode(ids)
    others = [text for text in (" kind", " a", " blue", ".") if text != said]
    requests = instances("loglikelihood", [("Anna is", text) for text in [said, *others]])
    found = harness(model, tokenizer).loglikelihood(requests)
    assert [greedy for _, greedy in found] == [True] + [False] * len(others)


def test_a_context_that_is_cut_to_length_begins_with_bos(instances):
    model, tokenizer = patched_model(), tiny_tokenizer()
    text = tokenizer.encode("abcdefghijklmnop", add_special_tokens=False)
    for max_length, kept in [(10, 8), (3, 1), (2, 0)]:  # rows of BOS, `kept` tokens and the first of "xy"
        lm = harness(model, max_length=max_length)
        ((total, _),) = lm.loglikelihood(instances("loglikelihood", [("abcdefghijklmnop", "xy")]))
        row = [BOS, *text[len(text) - kept :]]
        assert total == pytest.approx(score(model, row, tokenizer.encode("xy", add_special_tokens=False))[0], abs=1e-4)


# Rolling log-likelihoods


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_whole_text_is_scored_behind_one_bos(instances, batch_size):
    model, tokenizer = patched_model(), tiny_tokenizer()
    texts = ["Ann is kind.", "You", "The dog ran far away."]
    lm = harness(model, batch_size=batch_size)
    found = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in texts]), disable_tqdm=True)
    for text, total in zip(texts, found, strict=True):
        assert total == pytest.approx(
            score(model, [BOS], tokenizer.encode(text, add_special_tokens=False))[0], abs=1e-4
        )
    assert lm.tok_encode("a")[0] == BOS, "the habit is back"


def test_each_window_of_a_long_text_begins_with_bos(instances):
    model, tokenizer = patched_model(), tiny_tokenizer()
    ids = tokenizer.encode("abcdefghijklmnopqrst", add_special_tokens=False)
    lm = harness(model, max_length=8)
    (total,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [("abcdefghijklmnopqrst",)]))
    windows = [([BOS], ids[:8]), ([BOS], ids[8:16]), ([BOS, *ids[12:16]], ids[16:])]  # 8 columns at most
    assert total == pytest.approx(sum(score(model, *window)[0] for window in windows), abs=1e-4)


# Generation


@pytest.mark.parametrize("batch_size", [1, 4])
def test_generated_text_is_that_of_plain_concatenation(instances, family, batch_size):
    model, tokenizer = patched_model(family), tiny_tokenizer()
    prompts = ["Ann is", "The dog ran far", "a"]
    settings = {"until": ["never said"], "max_gen_toks": 6, "do_sample": False}
    lm = harness(model, batch_size=batch_size)
    found = lm.generate_until(instances("generate_until", [(prompt, settings) for prompt in prompts]))
    vectors = model.patches["default"].detach()
    for prompt, text in zip(prompts, found, strict=True):
        ids = generate_by_definition(model.get_base_model(), vectors, tokenizer.encode(prompt), 6)
        ids = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
        assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_prompt_that_is_cut_to_length_begins_with_bos(instances):
    model, tokenizer = patched_model(), tiny_tokenizer()
    settings = {"until": ["never said"], "max_gen_toks": 4, "do_sample": False}
    lm = harness(model, max_length=12)
    requests = instances("generate_until", [("abcdefghijklmnop", settings), ("ab", settings)])
    vectors = model.patches["default"].detach()
    rows = [[BOS, *tokenizer.encode("jklmnop", add_special_tokens=False)], tokenizer.encode("ab")]
    for row, text in zip(rows, lm.generate_until(requests), strict=True):
        ids = generate_by_definition(model.get_base_model(), vectors, row, 4)
        assert text == tokenizer.decode(ids, skip_special_tokens=True)


# The base


@pytest.mark.parametrize("how", ["named", "disabled"])
def test_without_a_patch_the_figures_are_those_of_lm_eval_itself(instances, how):
    from lm_eval.models.huggingface import HFLM

    model = patched_model()
    base = model.get_base_model()
    plain = HFLM(base, tokenizer=tiny_tokenizer(), batch_size=4)
    lm = harness(base, patch="__base__") if how == "named" else harness(model)
    pairs = instances("loglikelihood", PAIRS)
    prompts = instances("generate_until", [("Ann", {"until": ["."], "max_gen_toks": 5}) for _ in range(2)])
    with nullcontext() if how == "named" else model.disable_patch():
        assert lm.loglikelihood(pairs) == plain.loglikelihood(pairs)
        assert lm.generate_until(prompts) == plain.generate_until(prompts)
    assert plain.loglikelihood(pairs) != harness(model).loglikelihood(pairs)


def test_lm_eval_itself_still_scores_a_second_bos_in_whole_texts(instances):
    """When this fails, the base may be measured with `--model hf` too: say so in the docs."""
    from lm_eval.models.huggingface import HFLM

    base, text = tiny_model(), instances("loglikelihood_rolling", [("You",)])
    plain = HFLM(base, tokenizer=tiny_tokenizer()).loglikelihood_rolling(text)
    assert plain != harness(base, patch="__base__").loglikelihood_rolling(text)


# Which patch, how long


def test_a_stack_of_folders_is_measured_in_the_given_order(instances, tmp_path):
    folders = [str(tmp_path / name) for name in ("tox", "bias")]
    for seed, folder in enumerate(folders):
        patched_model(seed=seed).save_pretrained(folder)
    model = PolicyPatchModel.from_pretrained(tiny_model(), folders)
    pairs = instances("loglikelihood", PAIRS)
    expected = harness(model).loglikelihood(pairs)
    in_one_string = harness(tiny_model(), patch="+".join(folders))
    assert in_one_string.loglikelihood(pairs) == expected
    assert harness(tiny_model(), patch=folders).loglikelihood(pairs) == expected
    assert harness(tiny_model(), patch="+".join(folders[::-1])).loglikelihood(pairs) != expected
    info = in_one_string.get_model_info()
    assert info["model"] == f"policy-patch (LlamaForCausalLM + {folders[0]} + {folders[1]})"
    assert [one["sha256"] for one in info["patches"]] == [
        json.loads((tmp_path / name / "policy_patch_config.json").read_text())["sha256"] for name in ("tox", "bias")
    ]


def test_a_folder_with_a_plus_in_its_name_is_one_patch(lm_eval, tmp_path):
    patched_model().save_pretrained(tmp_path / "a+b")
    assert harness(tiny_model(), patch=str(tmp_path / "a+b")).num_virtual_tokens == LENGTH


def test_the_vectors_take_room_from_the_text(lm_eval):
    assert harness(patched_model("gpt2")).max_length == 64 - LENGTH
    assert harness(patched_model("llama")).max_length == 256 - LENGTH
    assert harness(patched_model("llama"), max_length=20).max_length == 20
    assert harness(tiny_model("gpt2"), patch="__base__").max_length == 64


def test_a_text_of_the_greatest_length_fits_behind_the_vectors(instances):
    lm = harness(patched_model("gpt2"))
    for rows in ([("a" * 100, "b" * 5)], [("", "b" * (64 - LENGTH))]):
        [(value, _)] = lm.loglikelihood(instances("loglikelihood", rows))
        assert -1000 < value < 0
    [rolling] = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [("a" * 200,)]))
    [text] = lm.generate_until(instances("generate_until", [("a" * 100, {"until": ["."], "max_gen_toks": 10})]))
    assert -2000 < rolling < 0 and 0 < len(text) <= 10


def test_the_given_tokenizer_stays_as_it_is(lm_eval):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    harness(patched_model(), tokenizer)
    assert tokenizer.pad_token is None


# Errors


def test_a_missing_or_second_patch_is_refused(lm_eval, tmp_path):
    with pytest.raises(EvaluationError, match=r"`patch` is missing\. Give .* or `patch=__base__`"):
        harness(tiny_model())
    with pytest.raises(EvaluationError, match=r"patched already, but `patch='x'` was given"):
        harness(patched_model(), patch="x")
    with pytest.raises(EvaluationError, match=r"No patch of `pretrained` is active"):
        harness(PolicyPatchModel(tiny_model()))
    for patch in ("a+", [], [3]):
        with pytest.raises(PatchNameError, match=r"expected a folder or a Hub id"):
            harness(tiny_model(), patch=patch)
    with pytest.raises(PatchNotFoundError):
        harness("never/loaded", patch=str(tmp_path))


def test_a_base_that_cannot_be_loaded_is_an_error_of_ours(lm_eval, tmp_path):
    patched_model().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"lm-eval cannot load the base `.*no-model`: "):
        harness(str(tmp_path / "no-model"), patch=str(tmp_path), device="cpu")


def test_vectors_that_leave_no_room_are_refused(lm_eval):
    with pytest.raises(PositionLimitError, match=r"256 vectors leave no room for text in the base's 256 positions"):
        harness(patched_model("llama", num_virtual_tokens=256))


def test_an_unknown_name_of_the_module_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute `PolicyPatch`"):
        lm_eval_model.PolicyPatch  # noqa: B018


def test_without_lm_eval_the_class_says_how_to_get_it(monkeypatch):
    lm_eval_model._policy_patch_lm.cache_clear()
    for module in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface"):
        monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    for ask in (lambda: lm_eval_model.PolicyPatchLM, lm_eval_model.register_policy_patch_lm):
        with pytest.raises(MissingExtraError, match=r"needs the package `lm-eval\[hf\]` .*`policy-patch\[lm-eval\]`"):
            ask()


# A task from end to end


@pytest.fixture
def tasks(tmp_path):
    """A folder with two tasks of one local file each, and a patch for the lab's base."""
    rows = [{"text": f"{name} is kind.", "start": f"{name} is", "end": 0} for name in ("Anna", "Paul", "Maria")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0}}
    common["dataset_kwargs"] = {"data_files": {"test": str(tmp_path / "rows.jsonl")}}
    choices = {"output_type": "multiple_choice", "doc_to_text": "{{start}}", "doc_to_target": "end"}
    choices |= {"task": "tiny_choice", "doc_to_choice": ["kind", "a girl"]}
    whole = {
        "task": "tiny_whole",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
    }
    whole["metric_list"] = [{"metric": "byte_perplexity"}]
    for task in (choices, whole):  # JSON is YAML
        (tmp_path / f"{task['task']}.yaml").write_text(json.dumps(common | task))
    config = PolicyPatchConfig(num_virtual_tokens=LENGTH, init="vocab")
    get_policy_patch_model(load_lab_base(), config, load_lab_tokenizer()).save_pretrained(tmp_path / "patch")
    return tmp_path


def expected_choice_accuracy(folder, tokenizer):
    model = PolicyPatchModel.from_pretrained(load_lab_base(), folder / "patch")
    hits = []
    for name in ("Anna", "Paul", "Maria"):
        context = tokenizer.encode(f"{name} is")
        kind, girl = (tokenizer.encode(f"{name} is {end}")[len(context) :] for end in ("kind", "a girl"))
        hits.append(score(model, context, kind)[0] > score(model, context, girl)[0])
    return sum(hits) / len(hits)


def test_a_task_runs_from_end_to_end_and_the_results_name_the_patch(lm_eval, tasks):
    from lm_eval.tasks import TaskManager

    lm_eval_model.register_policy_patch_lm()
    lm_eval_model.register_policy_patch_lm()
    settings = {"tasks": ["tiny_choice", "tiny_whole"], "bootstrap_iters": 0, "device": "cpu", "batch_size": 2}
    settings["task_manager"] = TaskManager(include_path=str(tasks), include_defaults=False)
    arguments = f"pretrained={LAB_BASE},patch={tasks / 'patch'},dtype=float32"
    results = lm_eval.simple_evaluate(model="policy-patch", model_args=arguments, **settings)
    tokenizer = load_lab_tokenizer()
    assert results["results"]["tiny_choice"]["acc,none"] == expected_choice_accuracy(tasks, tokenizer)
    model = PolicyPatchModel.from_pretrained(load_lab_base(), tasks / "patch")
    texts = [f"{name} is kind." for name in ("Anna", "Paul", "Maria")]
    total = sum(score(model, [BOS], tokenizer.encode(text, add_special_tokens=False))[0] for text in texts)
    perplexity = math.exp(-total / sum(len(text.encode()) for text in texts))
    assert results["results"]["tiny_whole"]["byte_perplexity,none"] == pytest.approx(perplexity, rel=1e-4)
    config = results["config"]
    assert config["model"] == f"policy-patch ({LAB_BASE} + {tasks / 'patch'})"
    assert config["patches"][0]["num_virtual_tokens"] == LENGTH
    assert len(config["patches"][0]["sha256"]) == 64


def test_the_python_of_the_documentation_runs(lm_eval, tasks, capsys):
    from lm_eval.tasks import TaskManager

    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"```python\n(from lm_eval.*?)```", page, re.DOTALL)
    manager = "task_manager=manager, bootstrap_iters=0"
    for old, new in (
        ('"org/model"', repr(LAB_BASE)),
        ('"org/tox-patch@v1.0.0"', repr(str(tasks / "patch"))),
        ('"cuda"', '"cpu"'),
        ('["hellaswag"]', f'["tiny_choice"], {manager}'),
    ):
        assert old in code
        code = code.replace(old, new)
    exec(code, {"manager": TaskManager(include_path=str(tasks), include_defaults=False)})
    assert "acc,none" in capsys.readouterr().out


def test_the_command_line_is_lm_evals_own(lm_eval, tasks):
    words = ["--model", "policy-patch", "--model_args", f"pretrained={LAB_BASE},patch={tasks / 'patch'}"]
    words += ["--tasks", "tiny_choice", "--include_path", str(tasks), "--device", "cpu"]
    words += ["--output_path", str(tasks / "out")]
    command = [sys.executable, "-m", "policy_patch.evaluation.lm_eval_cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tiny_choice" in done.stdout
    (file,) = (tasks / "out").rglob("results_*.json")
    assert json.loads(file.read_text())["config"]["model"] == f"policy-patch ({LAB_BASE} + {tasks / 'patch'})"
