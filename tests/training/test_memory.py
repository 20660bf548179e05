"""Training where memory is short: half precision, 8 bits, checkpointing, offloading, and one base for all roles."""

import gc
import json
import weakref

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformers import AutoModelForCausalLM, TorchAoConfig

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.cli import main
from policy_patch.errors import UnsupportedModelError
from policy_patch.training import PolicyPatchDPOTrainer, PolicyPatchSFTTrainer
from tests.tiny_models import tiny_model
from tests.training.synthetic import (
    HIDDEN_SIZE,
    NUM_VIRTUAL_TOKENS,
    TRAINERS,
    dpo_trainer,
    losses,
    patched,
    two_stage_trainer,
    vectors_of,
)

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
]
stages = pytest.mark.parametrize("stage", TRAINERS)
ways = pytest.mark.parametrize("checkpointing", [False, True], ids=["cached", "concat"])
ON_CPU = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head"), "cpu")
DISK, HOOKS = {**ON_CPU, "model.layers.1": "disk"}, {**ON_CPU, "model.layers.1": "cpu"}
NUM_VECTOR_VALUES = NUM_VIRTUAL_TOKENS * HIDDEN_SIZE


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Folder of a tiny base, to be loaded in several ways."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain_losses(tmp_path_factory):
    """Losses of both stages in fp32."""
    found = {}
    for stage, make in TRAINERS.items():
        trainer = make(patched(), tmp_path_factory.mktemp(stage))
        trainer.train()
        found[stage] = losses(trainer.state.log_history)
    return found


def patched_base(base) -> PolicyPatchModel:
    """Return `base` behind the vectors that `patched` has."""
    config = PolicyPatchConfig(num_virtual_tokens=NUM_VIRTUAL_TOKENS, init="random")
    model = get_policy_patch_model(base.eval(), config)
    with torch.no_grad():
        model.patches["default"].copy_(vectors_of(patched()))
    return model


def bytes_of(base) -> list[bytes]:
    """Return the bytes of every parameter, also of those that are made of several tensors."""
    found = []
    for tensor in base.state_dict().values():
        names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else []
        for part in [getattr(tensor, name) for name in names] or [tensor]:
            found.append(part.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found


def train(trainer) -> list[float]:
    trainer.train()
    assert all(norm > 0 for norm in losses(trainer.state.log_history, "grad_norm"))
    return losses(trainer.state.log_history)


# Precision of the base


@stages
@ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_trains_vectors_in_fp32(stage, checkpointing, dtype, plain_losses, tmp_path):
    model = patched().to(dtype)
    base, before = model.get_base_model(), vectors_of(model)
    assert base.dtype == dtype and torch.equal(before, vectors_of(patched())), "the vectors are not rounded"
    kept = {name: weights.clone() for name, weights in base.state_dict().items()}
    found = train(TRAINERS[stage](model, tmp_path, gradient_checkpointing=checkpointing))
    assert found == pytest.approx(plain_losses[stage], abs=0.03)
    assert model.patches["default"].dtype == torch.float32
    assert ((vectors_of(model) - before).abs().amax(-1) > 1e-3).all()
    assert all(torch.equal(weights, kept[name]) for name, weights in base.state_dict().items())


@stages
@ways
def test_autocast_to_bf16_trains_vectors_in_fp32(stage, checkpointing, plain_losses, tmp_path):
    model = patched()
    found = train(TRAINERS[stage](model, tmp_path, bf16=True, gradient_checkpointing=checkpointing))
    assert found != plain_losses[stage], "it is really on"
    assert found == pytest.approx(plain_losses[stage], abs=0.03)
    assert model.patches["default"].dtype == torch.float32
    assert model.get_base_model().dtype == torch.float32


@stages
@ways
def test_a_base_of_8_bits_trains_vectors_in_fp32(stage, checkpointing, stored, plain_losses, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig

    base = AutoModelForCausalLM.from_pretrained(
        stored, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), dtype=torch.float32
    )
    assert type(base.model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"
    model, before = patched_base(base), bytes_of(base)
    found = train(TRAINERS[stage](model, tmp_path, gradient_checkpointing=checkpointing))
    assert found != plain_losses[stage]
    assert found == pytest.approx(plain_losses[stage], abs=0.03)
    assert model.patches["default"].dtype == torch.float32
    assert bytes_of(base) == before


@pytest.mark.parametrize("where", ["8 bits", "disk"])
@pytest.mark.parametrize("reference", ["sft", "base", "teacher"])
def test_a_reference_in_8_bits_or_on_disk_can_be_asked_beforehand(where, reference, stored, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig

    def load():
        if where == "disk":
            return AutoModelForCausalLM.from_pretrained(stored, device_map=DISK, offload_folder=tmp_path / "offload")
        config = TorchAoConfig(Int8WeightOnlyConfig())
        return AutoModelForCausalLM.from_pretrained(stored, quantization_config=config, dtype=torch.float32)

    settings = {"reference": reference, "precompute_ref_log_probs": True}
    found = train(dpo_trainer(patched_base(load()), tmp_path, teacher=load, **settings))
    same = "base" if reference == "teacher" else reference  # the teacher has the base's weights here
    expected = train(dpo_trainer(patched(), tmp_path, reference=same))
    assert found == pytest.approx(expected, abs=0.03 if where == "8 bits" else 1e-6)


@stages
def test_vectors_on_a_base_that_bitsandbytes_loaded_keep_fp32_too(stage, tmp_path):
    model = patched()
    base, before = model.get_base_model(), vectors_of(model)
    base.is_loaded_in_8bit = True  # TRL then casts what trains to bf16, after the QLoRA paper
    trainer = TRAINERS[stage](model, tmp_path)
    assert torch.equal(model.patches["default"], before)
    assert model.patches["default"].requires_grad
    train(trainer)
    assert model.patches["default"].dtype == torch.float32


def test_the_same_base_without_a_patch_is_what_transformers_refuses_to_train(stored, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import Trainer, TrainingArguments

    base = AutoModelForCausalLM.from_pretrained(
        stored, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), dtype=torch.float32
    )
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="cannot perform fine-tuning on purely quantized models"):
        Trainer(base, args)


# Activations


@stages
def test_checkpointing_keeps_fewer_activations(stage, tmp_path):
    kept = {}
    for checkpointing in (False, True):
        seen = {}

        def note(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = patched()
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        trainer = TRAINERS[stage](model, tmp_path, gradient_checkpointing=checkpointing, max_steps=1)
        original = trainer.compute_loss

        def compute_loss(*args, original=original, note=note, **kwargs):
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                return original(*args, **kwargs)

        trainer.compute_loss = compute_loss
        trainer.train()
        kept[checkpointing] = sum(size for place, size in seen.items() if place not in weights)
    assert 0 < kept[True] < 0.6 * kept[False]


# Where the base lies


@stages
@pytest.mark.parametrize("kind", ["one device", "hooks", "disk"])
def test_a_base_with_a_device_map_trains_as_without(stage, kind, stored, plain_losses, tmp_path):
    if kind == "one device":
        base = AutoModelForCausalLM.from_pretrained(stored, device_map={"": "cpu"})
    elif kind == "hooks":
        base = dispatch_model(tiny_model(), HOOKS, force_hooks=True)
    else:
        base = AutoModelForCausalLM.from_pretrained(stored, device_map=DISK, offload_folder=tmp_path / "offload")
        assert base.model.layers[1].mlp.up_proj.weight.is_meta, "it is on disk"
    assert train(TRAINERS[stage](patched_base(base), tmp_path)) == pytest.approx(plain_losses[stage], abs=1e-6)


def test_embeddings_that_are_not_in_memory_are_refused():
    base = cpu_offload(tiny_model(), execution_device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"token embeddings of `base` are not in memory.*`device_map` may"):
        get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=2, init="vocab"))


# One base for policy and reference


def distinct(*modules) -> tuple[int, int]:
    """Return the number of distinct parameters in all modules, and their bytes."""
    found = {parameter.data_ptr(): parameter.nbytes for module in modules for parameter in module.parameters()}
    return len(found), sum(found.values())


@pytest.mark.parametrize(("reference", "more"), [("sft", 1), ("base", 0), ("teacher", 0)])
@pytest.mark.parametrize("precompute", [False, True])
def test_the_base_is_in_memory_once_while_dpo_trains(reference, more, precompute, tmp_path, monkeypatch):
    base_count, base_bytes = distinct(tiny_model())
    seen = []

    def step(self, *args, original=PolicyPatchDPOTrainer.training_step, **kwargs):
        seen.append(distinct(self.model, *([self.ref_model] if self.ref_model is not None else [])))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PolicyPatchDPOTrainer, "training_step", step)
    settings = {"reference": reference, "precompute_ref_log_probs": precompute}
    dpo_trainer(patched(), tmp_path, **settings, teacher=lambda: tiny_model(seed=3)).train()
    vectors = 1 + (0 if precompute else more)  # asked beforehand, no reference is left
    assert set(seen) == {(base_count + vectors, base_bytes + 4 * vectors * NUM_VECTOR_VALUES)}


@pytest.fixture
def teachers_alive(monkeypatch):
    """References to teachers, by `note`, and how many were in memory in each step of each stage."""

    class Alive(dict):
        def note(self, teacher):
            self.known.append(weakref.ref(teacher))
            return teacher

    alive = Alive(sft=[], dpo=[])
    alive.known = []
    for stage, trainer_class in (("sft", PolicyPatchSFTTrainer), ("dpo", PolicyPatchDPOTrainer)):

        def step(self, *args, stage=stage, original=trainer_class.training_step, **kwargs):
            alive[stage].append(sum(teacher() is not None for teacher in alive.known))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(trainer_class, "training_step", step)
    gc.disable()  # what only a later collection would free is not free when it is needed
    yield alive
    gc.enable()


def test_the_teacher_is_out_of_memory_before_the_first_step_of_dpo(teachers_alive, tmp_path):
    trainer = two_stage_trainer(
        patched(), tmp_path, dpo={"reference": "teacher"}, teacher=teachers_alive.note(tiny_model(seed=3))
    )
    trainer.train()
    assert (teachers_alive["sft"], teachers_alive["dpo"]) == ([1] * 6, [0] * 6)


def test_a_function_that_loads_the_teacher_is_called_when_dpo_asks_it(teachers_alive, tmp_path):
    def load():
        return teachers_alive.note(tiny_model(seed=3))

    two_stage_trainer(patched(), tmp_path, dpo={"reference": "teacher"}, teacher=load).train()
    assert (teachers_alive["sft"], teachers_alive["dpo"]) == ([0] * 6, [0] * 6)
    assert len(teachers_alive.known) == 1


def test_one_stage_alone_lets_go_of_its_teacher(teachers_alive, tmp_path):
    dpo_trainer(patched(), tmp_path, reference="teacher", teacher=teachers_alive.note(tiny_model(seed=3))).train()
    assert teachers_alive["dpo"] == [0] * 4


def test_the_command_holds_no_teacher_while_it_trains(teachers_alive, tmp_path, monkeypatch, capsys):
    from policy_patch.recipes import models, train

    def load_model(name, *, original=models.load_model, **options):
        model, tokenizer = original(name, **options)
        return (teachers_alive.note(model) if name == "lab:teacher" else model), tokenizer

    for module in (models, train):  # each has the name for itself
        monkeypatch.setattr(module, "load_model", load_model)
    steps = {"max_steps": 2, "per_device_train_batch_size": 1, "reference": "teacher"}
    words = [
        "--base",
        "lab:base",
        "--teacher",
        "lab:teacher",
        "--patch.init",
        "vocab",
        "--patch.num_virtual_tokens",
        "4",
    ]
    (tmp_path / "prompts.txt").write_text('Everyone in the kitchen knows that Ben is\nAnna shouted at Ben, "You\n')
    words += ["--data.prompts", str(tmp_path / "prompts.txt"), "--data.num_samples", "2", "--data.max_new_tokens", "6"]
    words += ["--data.min_margin", "0", "--data.max_chosen_score", "1.0", "--output_dir", str(tmp_path / "patch")]
    words += ["--dpo", json.dumps(steps), "--sft", '{"max_steps": 2, "per_device_train_batch_size": 1}']
    assert main(["train", *words]) == 0, capsys.readouterr().err
    assert (teachers_alive["sft"], teachers_alive["dpo"]) == ([0] * 2, [0] * 2)
    assert len(teachers_alive.known) == 2, "once to sample answers, once for their probabilities"
