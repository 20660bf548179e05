"""Tests of `base.loading`: many threads load at once, and a model whose weights have no values is refused."""

import ast
import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    initialization,
)

import policy_patch
from policy_patch import AutoPolicyPatchModel, PolicyPatchConfig, get_policy_patch_model
from policy_patch.base import loading
from policy_patch.base.loading import check_has_values, load_errors, load_pretrained
from policy_patch.errors import ModelLoadError
from policy_patch.evaluation.judge_models import ClassifierJudge
from policy_patch.evaluation.scorers import TransformersScorer
from policy_patch.evaluation.systems import System
from policy_patch.lab import load_lab_base, load_lab_teacher
from policy_patch.recipes.models import load_model
from policy_patch.training.teacher import loaded
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.tensor([[1, 40, 41, 42]])
THREADS = 8
SWAPPED = (PreTrainedModel.tie_weights, torch.linspace, torch.nn.init.normal_)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return folders of three tiny models with their tokenizer; GPT-2 and Gemma tie their head."""
    folders = {}
    for family in ("gpt2", "gemma2", "llama"):
        folders[family] = str(tmp_path_factory.mktemp("models") / family)
        tiny_model(family).save_pretrained(folders[family])
        tiny_tokenizer().save_pretrained(folders[family])
    return folders


@pytest.fixture
def slow(monkeypatch):
    """Make every model take 20 ms to build, in which others get their turn."""
    get = PreTrainedModel.get_init_context.__func__

    def get_slowly(cls, *args):
        return [*get(cls, *args), pause()]

    @contextlib.contextmanager
    def pause():
        threading.Event().wait(0.02)
        yield
        threading.Event().wait(0.02)

    monkeypatch.setattr(PreTrainedModel, "get_init_context", classmethod(get_slowly))


@pytest.fixture
def put_back():
    """Put back after the test what transformers swaps in the whole process."""
    dtype = torch.get_default_dtype()
    yield
    PreTrainedModel.tie_weights, torch.linspace, torch.nn.init.normal_ = SWAPPED
    torch.set_default_dtype(dtype)


def is_sound() -> bool:
    return (PreTrainedModel.tie_weights, torch.linspace, torch.nn.init.normal_) == SWAPPED


def at_once(functions):
    """Call each function in a thread of its own, all at the same moment; return what each returned or raised."""
    barrier = threading.Barrier(len(functions))

    def call(function):
        barrier.wait()
        try:
            return function()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))


def loaders(folders):
    """Return THREADS functions that load different models in different types, in all ways of the package."""
    return [
        load_lab_base,
        load_lab_teacher,
        lambda: load_model(folders["gpt2"], device="cpu", dtype="bfloat16")[0],
        lambda: load_model(folders["gemma2"], device="cpu")[0],
        lambda: load_pretrained(AutoModelForCausalLM, folders["llama"], dtype=torch.float16),
        lambda: load_model("lab:base", device="cpu", dtype="bfloat16")[0],
        lambda: loaded(lambda: AutoModelForCausalLM.from_pretrained(folders["gpt2"])),
        lambda: load_pretrained(AutoModelForCausalLM, folders["gemma2"], dtype=torch.bfloat16),
    ]


def same(one, other):
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one.parameters(), other.parameters()))


def test_many_threads_load_different_models_at_once_and_all_are_right(folders, slow):
    one_after_the_other = [load() for load in loaders(folders)]
    dtype = torch.get_default_dtype()
    for _ in range(3):
        models = at_once(loaders(folders))
        assert not [model for model in models if isinstance(model, Exception)]
        assert all(map(same, models, one_after_the_other))
        for model, expected in zip(models, one_after_the_other):
            check_has_values(model, "it")
            assert torch.equal(model(IDS).logits, expected(IDS).logits)
    assert is_sound() and torch.get_default_dtype() == dtype
    later = AutoModelForCausalLM.from_pretrained(folders["gpt2"])
    assert later.lm_head.weight is later.transformer.wte.weight, "the process still ties heads"


def test_many_threads_load_patches_with_their_bases_at_once(folders, slow, tmp_path):
    for family, folder in folders.items():
        base = AutoModelForCausalLM.from_pretrained(folder)
        config = PolicyPatchConfig(risk="toxicity", num_virtual_tokens=2, init="random")
        get_policy_patch_model(base, config).save_pretrained(tmp_path / family)
    ways = [
        lambda folder=tmp_path / family, dtype=dtype: AutoPolicyPatchModel.from_pretrained(folder, dtype=dtype)
        for family in folders
        for dtype in (torch.float32, torch.bfloat16)
    ]
    one_after_the_other = [load()(IDS).logits for load in ways]
    models = at_once(ways)
    assert not [model for model in models if isinstance(model, Exception)]
    assert all(torch.equal(model(IDS).logits, expected) for model, expected in zip(models, one_after_the_other))
    assert is_sound()


def test_without_the_lock_they_are_not(folders, slow, put_back, monkeypatch):
    monkeypatch.setattr(loading, "_lock", contextlib.nullcontext())
    monkeypatch.setattr(loading, "_WAIT", 0.0)
    assert [error for error in at_once(loaders(folders)) if isinstance(error, ModelLoadError)]


def test_transformers_itself_still_breaks_a_process(folders, put_back, monkeypatch):
    # If this fails, transformers has mended it: look whether the lock is still needed.
    first_is_in, second_is_in = threading.Event(), threading.Event()

    class First(GPT2LMHeadModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            first_is_in.set()
            assert second_is_in.wait(30)

    class Second(GPT2LMHeadModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            second_is_in.set()
            first.join(30)

    first = threading.Thread(target=lambda: First.from_pretrained(folders["gpt2"]))
    first.start()
    assert first_is_in.wait(30)
    Second.from_pretrained(folders["gpt2"])
    assert not is_sound()
    later = AutoModelForCausalLM.from_pretrained(folders["gpt2"])
    assert later.lm_head.weight.device.type == "meta"
    with pytest.raises(ModelLoadError, match=r"load it: `lm_head.weight` got no values\. .* one after the other"):
        check_has_values(later, "it")
    monkeypatch.setattr(loading, "_WAIT", 0.05)
    with pytest.raises(ModelLoadError, match=r"tie_weights` is swapped out for a load.*restart the process"):
        load_lab_base()


def test_what_functions_of_the_caller_load_is_looked_at():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_model().config)
    with pytest.raises(ModelLoadError, match="Cannot load the teacher: "):
        loaded(lambda: model)
    with pytest.raises(ModelLoadError, match="Cannot load the model of a system: "), System(lambda: model).opened():
        pass


# Loads elsewhere


@contextlib.contextmanager
def elsewhere(folder):
    """Within the context another thread is in the middle of building a model with transformers itself."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(GPT2LMHeadModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            inside.set()
            assert go_on.wait(30)

    thread = threading.Thread(target=lambda: Slow.from_pretrained(folder))
    thread.start()
    assert inside.wait(30)
    try:
        yield
    finally:
        go_on.set()
        thread.join()


def test_a_load_waits_for_one_elsewhere_that_ends(folders):
    with ThreadPoolExecutor(1) as pool:
        with elsewhere(folders["gpt2"]):
            ours = pool.submit(load_lab_base)
            threading.Event().wait(0.2)
            assert not ours.done()
        check_has_values(ours.result(30), "it")
    assert is_sound()


def test_one_elsewhere_that_does_not_end_is_named(folders, monkeypatch):
    monkeypatch.setattr(loading, "_WAIT", 0.05)
    message = (
        r"the lab's base: `PreTrainedModel.tie_weights` is swapped out for a load.*policy_patch\.base\.loading\.loading"
    )
    with elsewhere(folders["gpt2"]), pytest.raises(ModelLoadError, match=message):
        load_lab_base()
    check_has_values(load_lab_base(), "it")


def test_one_elsewhere_that_begins_meanwhile_is_noticed(folders, put_back):
    class Meanwhile:
        @staticmethod
        def from_pretrained(source, **options):
            context.enter_context(elsewhere(source))
            return tiny_model()

    class OtherType:
        @staticmethod
        def from_pretrained(source, **options):
            torch.set_default_dtype(torch.bfloat16)
            return tiny_model()

    with contextlib.ExitStack() as context, pytest.raises(ModelLoadError, match="tie_weights` was swapped meanwhile"):
        load_pretrained(Meanwhile, folders["gpt2"])
    with pytest.raises(ModelLoadError, match="torch's default dtype was swapped meanwhile"):
        load_pretrained(OtherType, folders["gpt2"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_that_nobody_asked_for_are_noticed(folders, monkeypatch, put_back, dtype):
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    made = []

    class Disturbed(LlamaForCausalLM):
        """Stands for a load elsewhere that changes torch's default dtype and puts it back meanwhile."""

        def __init__(self, *args, **kwargs):
            with mock.patch.object(torch.nn.Linear, "__init__", linear):
                super().__init__(*args, **kwargs)

    def linear(self, *args, **kwargs):
        torch.set_default_dtype(other if len(made) in (3, 4) else dtype)
        made.append(self)
        init(self, *args, **kwargs)
        torch.set_default_dtype(dtype)

    init = torch.nn.Linear.__init__
    with pytest.raises(
        ModelLoadError, match=rf"`model\.layers\.#\..*_proj\.weight` is .*, asked for was {dtype}\. It looks"
    ):
        load_pretrained(Disturbed, folders["llama"], dtype=dtype)
    assert len(made) > 5
    for family in folders:
        assert load_pretrained(AutoModelForCausalLM, folders[family], dtype=dtype).dtype == dtype


def test_weights_that_a_model_keeps_in_float32_are_in_order():
    model = tiny_model().to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    for layer in model.model.layers:
        layer.mlp.gate_proj.float()
    loading._check_types(model, "it")
    model.model.layers[1].mlp.gate_proj.to(torch.bfloat16)
    with pytest.raises(
        ModelLoadError, match=r"`model\.layers\.#\.mlp\.gate_proj\.weight` is torch.bfloat16 and torch.flo"
    ):
        loading._check_types(model, "it")
    model.config.dtype = "auto"
    loading._check_types(model, "it")


def test_the_swaps_are_those_of_transformers():
    with initialization.no_tie_weights():
        assert loading._swapped() == "`PreTrainedModel.tie_weights`"
    with initialization.meta_device_safe_creation_ops():
        assert loading._swapped() == "`torch.linspace`"
    assert loading._swapped() is None


# Weights without values


def test_weights_without_values_are_named_unless_asked_for(folders):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_model().config)
    with pytest.raises(ModelLoadError, match=r"Cannot load it: `model\.embed_tokens\.weight`, .* and \d+ more got no"):
        check_has_values(model, "it")
    check_has_values(model, "it", asked=True)
    model = tiny_model()
    model.model.register_buffer("table", torch.empty(2, device="meta"))
    with pytest.raises(ModelLoadError, match=r"`model\.table` got no values"):
        check_has_values(model, "it")


def test_a_model_on_the_meta_device_can_be_asked_for(folders):
    pytest.importorskip("accelerate")
    model = load_pretrained(AutoModelForCausalLM, folders["llama"], device_map="meta")
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_weights_on_a_disk_count_as_there(folders, tmp_path):
    pytest.importorskip("accelerate")
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu",
              "lm_head": "cpu"}  # fmt: skip
    model = load_pretrained(AutoModelForCausalLM, folders["llama"], device_map=places, offload_folder=tmp_path)
    assert model.model.layers[0].mlp.up_proj.weight.device.type == "meta"
    assert torch.allclose(model(IDS).logits, AutoModelForCausalLM.from_pretrained(folders["llama"])(IDS).logits)


# Errors


@pytest.mark.parametrize(
    "config",
    ["", "[", "[" * 100_000, '{"model_type": "llama", "num_hidden_layers": "many"}', '{"model_type": 7}', "[1]",
     '{"model_type": "llama", "hidden_size": ' + "9" * 5_000 + "}", '{"model_type": "llama", "rope_parameters": 3}'],
)  # fmt: skip
def test_whatever_is_wrong_with_the_files_of_a_base_is_one_error(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelLoadError, match=r"Cannot load the base `b`: \S.* Give another\."):
        load_pretrained(AutoModelForCausalLM, tmp_path, named="the base `b`", advice="Give another.")


# All ways


@pytest.fixture
def classifier(tmp_path):
    labels = {"id2label": {0: "safe", 1: "toxic"}, "label2id": {"safe": 0, "toxic": 1}}
    config = BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, **labels)  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def test_each_way_of_the_package_holds_the_lock_while_it_loads(folders, classifier, tmp_path, monkeypatch):
    held, seen = [0], []

    class Counting:
        def __enter__(self):
            held[0] += 1

        def __exit__(self, *_):
            held[0] -= 1

    get = PreTrainedModel.get_init_context.__func__

    def look(cls, *args):
        seen.append(held[0] > 0)
        return get(cls, *args)

    base = AutoModelForCausalLM.from_pretrained(folders["llama"])
    model = get_policy_patch_model(base, PolicyPatchConfig(risk="toxicity", num_virtual_tokens=2, init="random"))
    model.save_pretrained(tmp_path / "patch")
    monkeypatch.setattr(loading, "_lock", Counting())
    monkeypatch.setattr(PreTrainedModel, "get_init_context", classmethod(look))
    ways = [
        load_lab_base,
        load_lab_teacher,
        lambda: load_model(folders["llama"], device="cpu"),
        lambda: AutoPolicyPatchModel.from_pretrained(tmp_path / "patch"),
        lambda: loaded(lambda: AutoModelForCausalLM.from_pretrained(folders["llama"])),
        lambda: System(lambda: AutoModelForCausalLM.from_pretrained(folders["llama"])).opened().__enter__(),
        lambda: TransformersScorer(classifier),
        lambda: ClassifierJudge(classifier, unsafe_labels=["toxic"], device="cpu"),
    ]
    for way in ways:
        way()
    assert seen == [True] * len(ways)
    assert held == [0]


def test_no_file_of_the_package_loads_a_model_by_itself():
    found = []
    for path in Path(policy_patch.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_load = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                "from_pretrained",
                "from_config",
            )
            of = ast.unparse(node.func.value).rpartition(".")[2] if is_load else ""
            if (path.name, of) == ("loading.py", "AutoConfig"):
                continue  # builds no model
            if is_load and ("Tokenizer" not in of) and of not in ("PolicyPatchModel", "PeftModel", "auto_class"):
                found.append((path.name, ast.unparse(node)))
    assert not found, "go through `load_pretrained`"


def test_a_thread_that_loads_may_load_within():
    with loading.loading(), loading.loading():
        assert load_lab_base().dtype == torch.float32


def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have():
    code = """
import os, threading
from policy_patch.base.loading import loading
entered, leave = threading.Event(), threading.Event()
def hold():
    with loading():
        entered.set(); leave.wait()
thread = threading.Thread(target=hold); thread.start(); entered.wait()
child = os.fork()
if not child:
    import signal; signal.alarm(10)
    with loading():
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])); leave.set(); thread.join()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"


def test_a_reason_that_is_a_list_is_told_as_a_whole():
    with pytest.raises(ModelLoadError, match=r"Cannot load it: None of these: \(1\) a \(2\) b$"), load_errors("it"):
        raise ValueError("None of these: \n(1) a\n(2) b")
    with pytest.raises(ModelLoadError, match=r"Cannot load it: No$"), load_errors("it"):
        raise ValueError("No\nmore")
