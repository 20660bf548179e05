"""transformers' and TRL's own trainers with a `PolicyPatchModel`: the right loss, or our error before any step."""

import copy
import math

import pytest
import torch
import transformers
import trl

from policy_patch.errors import ConfigError, PatchInputError, TrainingError
from policy_patch.training.adopted import AdoptedTrainer, adopted
from policy_patch.training.checkpoints import PatchCheckpoints
from tests.definition import logits_by_definition
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training.synthetic import (
    UPSTREAM,
    facts_of,
    losses,
    patched,
    preference_pairs,
    sft_trainer,
    upstream_trainer,
    vectors_of,
)

# TRL 1.16 and accelerate still call names that transformers 5.23 deprecates (removed in v6; pinned below it).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_(en|dis)able` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:`gradient_checkpointing(_kwargs)?` is deprecated:FutureWarning"
    ),  # of TRL's own settings
]
kinds = pytest.mark.parametrize("kind", UPSTREAM)
ROWS = 12  # of `preference_pairs`: one step sees them all


def log_probs(model, prompt: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return by the definition the log-probabilities of all next tokens at the answer's, and the answer's ids."""
    tokenizer = tiny_tokenizer()
    before = len(tokenizer(prompt)["input_ids"])
    row = [*tokenizer(prompt + answer)["input_ids"]]
    with torch.no_grad():
        logits = logits_by_definition(model.get_base_model(), vectors_of(model), row)
    return logits.log_softmax(-1)[before - 1 : -1], torch.tensor(row[before:])


def loss_by_definition(model, kind: str, smoothing: float = 0.0) -> float:
    """Return the mean loss of the labelled tokens of all rows, one row at a time, by concatenation."""
    total, count = 0.0, 0
    for pair in preference_pairs(ROWS):
        if kind == "Trainer":  # scores the whole text, and has no end-of-text token
            found, ids = log_probs(model, "", pair["prompt"] + pair["chosen"])
        else:
            found, ids = log_probs(model, pair["prompt"], pair["chosen"] + "</s>")
        wanted = found[torch.arange(len(ids)), ids]
        total -= float((1 - smoothing) * wanted.sum() + smoothing * found.mean(-1).sum())
        count += len(ids)
    return total / count


OPTIONS = {
    "plain": {},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "not reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "accumulated": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4},
    "tokens of this device": {"average_tokens_across_devices": False},
    "by length": {"train_sampling_strategy": "group_by_length"},
}


@pytest.mark.parametrize("kind", ["Trainer", "SFTTrainer"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_loss_is_that_of_the_definition(kind, family, options, tmp_path):
    model = patched(family)
    expected = loss_by_definition(model, kind)
    trainer = upstream_trainer(
        kind, model, tmp_path, **{"per_device_train_batch_size": ROWS, "max_steps": 1, **options}
    )
    trainer.train()
    assert losses(trainer.state.log_history) == [pytest.approx(expected, abs=1e-4)]


def test_smoothed_labels_in_trl_s_sft_are_those_of_the_definition(tmp_path):
    model = patched()
    expected = loss_by_definition(model, "SFTTrainer", smoothing=0.2)
    assert abs(expected - loss_by_definition(model, "SFTTrainer")) > 1e-3
    settings = {"per_device_train_batch_size": ROWS, "max_steps": 1, "label_smoothing_factor": 0.2}
    with pytest.warns(FutureWarning, match="`label_smoothing_factor` is deprecated in `SFTTrainer`"):
        trainer = upstream_trainer("SFTTrainer", model, tmp_path, **settings)
    trainer.train()
    assert losses(trainer.state.log_history) == [pytest.approx(expected, abs=1e-4)]


@pytest.mark.parametrize("kind", ["Trainer", "SFTTrainer"])
def test_evaluation_scores_the_patched_model(kind, tmp_path):
    model = patched()
    trainer = upstream_trainer(kind, model, tmp_path)
    found = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    with model.disable_patch():
        assert abs(trainer.evaluate(trainer.train_dataset)["eval_loss"] - found) > 1e-3
    trainer.args.per_device_eval_batch_size = ROWS
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(
        loss_by_definition(model, kind), abs=1e-4
    )


def test_a_trainer_of_another_model_is_upstream_s_own(tmp_path):
    for kind in UPSTREAM:
        more = {"ref_model": patched()} if kind == "DPOTrainer" else {}
        trainer = upstream_trainer(kind, tiny_model(), tmp_path, **more)
        assert type(trainer) is getattr(transformers if kind == "Trainer" else trl, kind)


@kinds
def test_an_adopted_trainer_looks_like_the_one_that_was_called(kind, tmp_path):
    trainer = upstream_trainer(kind, patched(), tmp_path)
    original = getattr(transformers if kind == "Trainer" else trl, kind)
    assert isinstance(trainer, original) and isinstance(trainer, AdoptedTrainer)
    assert (type(trainer).__name__, type(trainer).__module__) == (original.__name__, original.__module__)
    assert adopted(type(trainer)) is type(trainer) and adopted(original) is type(trainer)


@kinds
def test_a_subclass_of_a_user_keeps_what_it_overrides(kind, tmp_path):
    original = getattr(transformers if kind == "Trainer" else trl, kind)

    class Mine(original):
        def __init__(self, *args, note, **kwargs):
            super().__init__(*args, **kwargs)
            self.note, self.steps = note, 0

        def compute_loss(self, *args, **kwargs):
            self.steps += 1
            return super().compute_loss(*args, **kwargs)

    template = upstream_trainer(kind, patched(), tmp_path)
    data = {"train_dataset": preference_pairs()} if kind != "Trainer" else {"train_dataset": template.train_dataset}
    if kind == "SFTTrainer":
        data["train_dataset"] = preference_pairs().rename_column("chosen", "completion").remove_columns("rejected")
    if kind == "Trainer":
        data["data_collator"] = template.data_collator
    trainer = Mine(patched(), args=template.args, processing_class=tiny_tokenizer(), note="mine", **data)
    assert isinstance(trainer, Mine) and isinstance(trainer, PatchCheckpoints) and trainer.note == "mine"
    trainer.train()
    assert trainer.steps == 4
    if kind == "DPOTrainer":
        assert losses(trainer.state.log_history)[0] == pytest.approx(math.log(2), abs=1e-5)


@kinds
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_everything_of_the_base_is_as_before(kind, family, tmp_path):
    model = patched(family)
    model.train()
    base = model.get_base_model()
    base.config.pad_token_id = base.generation_config.pad_token_id = None
    base.config.use_cache = True
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    before = facts_of(base)
    trainer = upstream_trainer(kind, model, tmp_path, gradient_checkpointing=True)
    assert facts_of(base) == before
    trainer.train()
    assert facts_of(base) == before
    assert model.training


def test_dropout_is_off_in_dpo_as_trl_says(tmp_path):
    seen = {}
    for disable in (True, False):
        model = patched("gpt2")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        trainer = upstream_trainer("DPOTrainer", model, tmp_path, disable_dropout=disable)
        trainer.train()
        seen[disable] = losses(trainer.state.log_history)[0]
    assert seen[True] == pytest.approx(math.log(2), abs=1e-5) != pytest.approx(seen[False], abs=1e-5)


@kinds
def test_the_vectors_train_in_fp32_where_trl_would_cast_them(kind, tmp_path):
    model = patched()
    model.get_base_model().is_loaded_in_8bit = True  # what TRL takes for a quantised base
    trainer = upstream_trainer(kind, model, tmp_path)
    assert model.patches["default"].dtype == torch.float32
    trainer.train()
    assert model.patches["default"].dtype == torch.float32


@kinds
def test_a_copy_of_a_trained_model_runs_its_own_patch(kind, tmp_path):
    model = patched()
    upstream_trainer(kind, model, tmp_path).train()
    twin = copy.deepcopy(model)
    ids = torch.tensor([[1, 70, 80, 90]])
    with torch.no_grad():
        expected = model(ids).logits
        model.patches["default"].zero_()
        assert torch.equal(twin(ids).logits, expected)
        assert not torch.equal(model(ids).logits, expected)


# What is refused

BAD = {
    "packing": ({"packing": True}, ["SFTTrainer"], "`packing=True` joins several texts into one row"),
    "packing of eval": ({"eval_packing": True}, ["SFTTrainer"], "`eval_packing=True` joins several texts into one row"),
    "padding-free": ({"padding_free": True}, ["SFTTrainer", "DPOTrainer"], "`padding_free=True` joins several texts"),
    "sync": ({"sync_ref_model": True}, ["DPOTrainer"], "`sync_ref_model=True` writes to the reference's parameters"),
    "liger": ({"use_liger_kernel": True}, UPSTREAM, "`use_liger_kernel=True` replaces modules of the base in place"),
    "compile": ({"torch_compile": True}, UPSTREAM, "`torch_compile=True` compiles the whole training step"),
    "offloading": ({"activation_offloading": True}, ["SFTTrainer", "DPOTrainer"], "`activation_offloading=True` was"),
    "smoothing": ({"label_smoothing_factor": 0.1}, ["Trainer", "DPOTrainer"], "`label_smoothing_factor=0.1` would not"),
    "hub": (
        {"push_to_hub": True, "hub_strategy": "every_save"}, UPSTREAM, "`hub_strategy='every_save'` would push"
    ),
}  # fmt: skip
CASES = [(name, kind) for name, (_, of_kinds, _) in BAD.items() for kind in of_kinds]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_would_train_something_else_is_refused_by_the_constructor(name, kind, tmp_path):
    settings, _, words = BAD[name]
    model = patched()
    with pytest.raises(ConfigError, match=words):
        upstream_trainer(kind, model, tmp_path, **settings)
    assert "forward" not in vars(model)


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_is_for_the_trainers_of_the_package(name, monkeypatch):
    monkeypatch.setenv(name, "true")
    args = trl.SFTConfig.__new__(trl.SFTConfig)
    args.fsdp = args.deepspeed = None
    trainer = object.__new__(adopted(trl.SFTTrainer))
    with pytest.raises(TrainingError, match=r"FSDP and DeepSpeed were tested .* Use `PolicyPatchSFTTrainer` and"):
        trainer._check(args)


@pytest.mark.parametrize(
    ("kind", "config", "wanted"),
    [("SFTTrainer", "DPOConfig", "SFTConfig"), ("DPOTrainer", "SFTConfig", "DPOConfig")],
)
def test_the_settings_of_another_trainer_are_refused_with_those_to_use(kind, config, wanted, tmp_path):
    args = getattr(trl, config)(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TrainingError, match=f"`args` is a {config}; {kind} needs a `{wanted}` of TRL.*PolicyPatch"):
        getattr(trl, kind)(patched(), args=args, train_dataset=preference_pairs(), processing_class=tiny_tokenizer())


@pytest.mark.parametrize("name", ["RewardTrainer", "GRPOTrainer", "RLOOTrainer", "KTOTrainer"])
def test_a_trainer_that_was_not_tried_is_refused_before_it_looks_at_anything(name):
    with pytest.raises(
        TrainingError, match=rf"`{name}` was not tested with a PolicyPatchModel.*`PolicyPatchDPOTrainer`"
    ):
        getattr(trl, name)(patched(), args=None, train_dataset=None)
    with pytest.raises(TrainingError, match=rf"`{name}` was not tested"):
        type("Mine", (getattr(trl, name),), {})(model=patched())


def test_trainers_of_transformers_other_than_trainer_are_refused():
    with pytest.raises(TrainingError, match="`Seq2SeqTrainer` was not tested with a PolicyPatchModel"):
        transformers.Seq2SeqTrainer(model=patched())


@pytest.mark.parametrize("kind", ["SFTTrainer", "DPOTrainer"])
def test_a_peft_config_is_refused_before_it_touches_the_base(kind, tmp_path):
    class OfPeft:
        peft_type = "LORA"

    with pytest.raises(TrainingError, match="`peft_config` would put PEFT's parameters on the base of the patch"):
        getattr(trl, kind)(patched(), peft_config=OfPeft())


@kinds
def test_training_without_a_trainable_patch_is_refused_and_evaluating_is_not(kind, tmp_path):
    model = patched()
    model.patches["default"].requires_grad_(False)
    trainer = upstream_trainer(kind, model, tmp_path)
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0
    with pytest.raises(TrainingError, match="Exactly one active patch must be trainable"):
        trainer.train()


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("ours", [False, True])
def test_texts_that_a_collator_joins_are_refused_before_the_first_step(with_lengths, ours, tmp_path):
    collator = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=with_lengths)
    model = patched()
    start = vectors_of(model)
    trainer = sft_trainer(model, tmp_path) if ours else upstream_trainer("Trainer", model, tmp_path)
    trainer.data_collator = collator
    with pytest.raises(PatchInputError):
        trainer.train()
    assert trainer.state.global_step == 0 and torch.equal(vectors_of(model), start)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda args: 2))
    with pytest.raises(TrainingError, match=r"2 GPUs are visible to one process.*`accelerate launch`"):
        upstream_trainer("Trainer", patched(), tmp_path)


def test_a_model_that_comes_by_model_init_is_refused(tmp_path):
    args = transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(TrainingError, match=r"did not get its PolicyPatchModel as .* by `model_init`"):
        transformers.Trainer(args=args, model_init=lambda: patched())
