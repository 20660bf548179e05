"""Tests of `injection.injection`: other architectures, stale prefixes, threads, and calls that no patch can serve.

That both ways equal the definition on the verified families is the business of `test_exactness.py`.
"""

import threading
from itertools import pairwise

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    DynamicCache,
    EncoderDecoderCache,
    Gemma4TextConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    Lfm2Config,
    MambaConfig,
    MiniMaxConfig,
    MixtralConfig,
    MptConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedModel,
    RobertaConfig,
    RwkvConfig,
    StaticCache,
)

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.base.architecture import learned_position_limit
from policy_patch.errors import PatchInputError, PositionLimitError, UnsupportedModelError
from policy_patch.injection import self_check
from policy_patch.injection.priming import MOST_KEPT, Primer
from policy_patch.injection.self_check import checked_injection
from tests.definition import generate_by_definition, logits_by_definition, padded
from tests.tiny_models import BOS, EOS, FAMILIES, PAD, VOCAB_SIZE, tiny_model

N = 6
TOLERANCE = 1e-5
ROWS = [[BOS, *range(20, 39)], [BOS, 50, 51, 52], [BOS, *range(90, 99)]]
CONFIG = PolicyPatchConfig(num_virtual_tokens=N, init="random")

_TOKENS = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
_OLD = {"n_layer": 2, "n_head": 4, "initializer_range": 0.2}
_LOCAL = {"attention_types": [[["global", "local"], 1]], "window_size": 8, "num_layers": 2, "num_heads": 4}
_BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}

# Architectures that nothing in the code knows by name, each for its own difficulty.
EXACT = {
    "phi": lambda: PhiConfig(**_SHAPE, **_TOKENS),
    "gpt_neox": lambda: GPTNeoXConfig(**_SHAPE, **_TOKENS),
    "mixtral": lambda: MixtralConfig(**_SHAPE, **_TOKENS, num_key_value_heads=2, num_local_experts=4),
    "bloom": lambda: BloomConfig(hidden_size=32, **_OLD, **_TOKENS),  # distances from the mask, no position ids
    "opt": lambda: OPTConfig(  # calls its inner decoder past the backbone; embeddings of another size than the layers
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        init_std=0.2,
        word_embed_proj_dim=16,
        **_TOKENS,
    ),
    "mpt": lambda: MptConfig(  # distances are counted in columns, so padding counts
        d_model=32, n_layers=2, n_heads=4, expansion_ratio=2, max_seq_len=128, initializer_range=0.2, **_TOKENS
    ),
    "gpt_neo": lambda: GPTNeoConfig(  # windows under a name of its own
        hidden_size=32, max_position_embeddings=128, initializer_range=0.2, **_LOCAL, **_TOKENS
    ),
    "openai-gpt": lambda: OpenAIGPTConfig(n_embd=32, n_positions=128, **_OLD, **_TOKENS),  # has no cache at all
    "lfm2": lambda: Lfm2Config(  # convolutions keep a state that no keys and values can prime
        **_SHAPE, **_TOKENS, num_key_value_heads=2, layer_types=["conv", "full_attention"]
    ),
    "mamba": lambda: MambaConfig(  # no keys at all; its cache has another name
        hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.2, **_TOKENS
    ),
}
NOT_PADDED = {  # exact row by row; a batch padded on the left, or with patches of different lengths, is refused
    "bart": lambda: BartConfig(  # counts padding as positions
        **_BART, **_TOKENS, max_position_embeddings=128, init_std=0.2, is_decoder=True, is_encoder_decoder=False
    ),
}
REFUSED = {
    "roberta": lambda: RobertaConfig(**_SHAPE, **_TOKENS, is_decoder=True),  # positions begin behind the padding id
    "gemma4": lambda: Gemma4TextConfig(  # looks up which token an embedding is
        **_SHAPE,
        **_TOKENS,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "rwkv": lambda: RwkvConfig(hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, **_TOKENS),
    "minimax": lambda: MiniMaxConfig(  # its cache does not tell that it is filled
        **_SHAPE,
        **_TOKENS,
        num_key_value_heads=2,
        num_local_experts=2,
        layer_types=["linear_attention", "full_attention"],
    ),
}


def build(config) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def patched(base: PreTrainedModel) -> tuple[PolicyPatchModel, torch.Tensor]:
    model = get_policy_patch_model(base, CONFIG).eval()
    with torch.no_grad():
        model.patches["default"].mul_(3)  # far enough from the embeddings that a missing patch is seen
    return model, model.patches["default"].detach()


def error_of(model: PolicyPatchModel, vectors: torch.Tensor, side: str = "left", rows=ROWS) -> float:
    """Return the largest difference of logits to the definition."""
    base = model.get_base_model()
    ids, mask = padded(rows, side)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        expected = [logits_by_definition(base, vectors, row) for row in rows]
    return max((logits[i][mask[i] == 1] - want).abs().max().item() for i, want in enumerate(expected))


# Architectures that no test was written for


@pytest.mark.parametrize("name", EXACT)
def test_an_unknown_architecture_equals_the_definition(name):
    base = build(EXACT[name]())
    model, vectors = patched(base)
    for side in ("left", "right"):
        assert error_of(model, vectors, side) <= TOLERANCE
    assert error_of(model, vectors, rows=ROWS[:1]) <= TOLERANCE
    ids, mask = padded(ROWS, "left")
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    with torch.no_grad():
        generated = model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]
        assert generated.tolist() == [generate_by_definition(base, vectors, row, 4) for row in ROWS]


def test_both_ways_are_taken_among_them():
    ways = {
        name: checked_injection(build(EXACT[name]())).findings.cacheable
        for name in ("phi", "bloom", "openai-gpt", "lfm2")
    }
    assert ways == {"phi": True, "bloom": True, "openai-gpt": False, "lfm2": False}


def test_where_the_cached_way_is_wrong_the_other_one_is_taken(monkeypatch):
    run = Primer._run

    def wrong(self, stack, *, with_bos):
        primed = run(self, stack, with_bos=with_bos)
        primed.keys_values[0][1].mul_(1.1)
        return primed

    monkeypatch.setattr(Primer, "_run", wrong)
    monkeypatch.setattr(self_check, "_FOUND", {})
    model, vectors = patched(build(EXACT["phi"]()))
    assert model._injection.findings.cacheable is False
    assert error_of(model, vectors) <= TOLERANCE


@pytest.mark.parametrize("name", NOT_PADDED)
def test_where_padding_is_not_exact_a_padded_batch_is_refused_and_nothing_else(name):
    base = build(NOT_PADDED[name]())
    model, vectors = patched(base)
    assert error_of(model, vectors, rows=ROWS[:1]) <= TOLERANCE
    assert error_of(model, vectors, "right") <= TOLERANCE
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": PAD, "eos_token_id": None}
    options["forced_eos_token_id"] = None
    with torch.no_grad():
        generated = model.generate(input_ids=torch.tensor(ROWS[:1]), **options)[0, -4:].tolist()
        assert generated == generate_by_definition(base, vectors, ROWS[0], 4)
    with pytest.raises(PatchInputError, match="Padding on the left, or patches of different lengths in one batch"):
        error_of(model, vectors, "left")
    model.add_patch("short", PolicyPatchConfig(num_virtual_tokens=2, init="random"))
    with pytest.raises(PatchInputError, match="Padding on the left, or patches of different lengths in one batch"):
        model(torch.tensor([ROWS[0], ROWS[0]]), patch_names=["default", "short"])


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_is_not_exact_is_refused_and_left_as_it_was(name):
    base = build(REFUSED[name]()).train()
    modes = [module.training for module in base.modules()]
    reason = "a cache of its own" if name == "rwkv" else "does not give what the same vectors between its token"
    with pytest.raises(UnsupportedModelError, match=reason):
        get_policy_patch_model(base, CONFIG)
    assert [module.training for module in base.modules()] == modes
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())


def test_a_backbone_that_is_never_called_is_refused_not_silently_unpatched(monkeypatch):
    base = build(EXACT["phi"]())
    inner = base.model.forward  # past the hooks, as OPT calls its decoder
    monkeypatch.setattr(type(base), "base_model", property(lambda self: torch.nn.Linear(1, 1)))
    with pytest.raises(UnsupportedModelError, match="What the backbone of `base` takes cannot be seen"):
        get_policy_patch_model(base, CONFIG)
    assert base.model.forward == inner


def test_the_check_leaves_modes_and_the_random_state_alone():
    base = build(EXACT["gpt_neo"]()).train()
    base.lm_head.eval()
    modes = [module.training for module in base.modules()]
    state = torch.get_rng_state()
    checked_injection(base)
    assert [module.training for module in base.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


# Learned positions


def test_the_limit_of_learned_positions_is_found_and_rotary_ones_have_none():
    assert learned_position_limit(tiny_model("gpt2")) == 64
    assert learned_position_limit(build(EXACT["opt"]())) == 128
    assert learned_position_limit(build(EXACT["gpt_neo"]())) == 128
    for family in set(FAMILIES) - {"gpt2"}:
        assert learned_position_limit(tiny_model(family)) is None


def test_patch_and_text_fill_the_learned_positions_to_the_last_and_no_further():
    model, vectors = patched(tiny_model("gpt2"))
    longest = [BOS, *range(100, 157)]  # 58 tokens behind 6 vectors
    assert error_of(model, vectors, rows=[longest, [BOS, 5]]) <= TOLERANCE
    with pytest.raises(PositionLimitError, match=r"6 vectors and 59 tokens need 65 .* learned 64. .* to 58 tokens"):
        model(input_ids=torch.tensor([[*longest, 9]]))
    # padding takes no position
    ids, mask = padded([longest], "right")
    ids, mask = torch.nn.functional.pad(ids, (0, 4)), torch.nn.functional.pad(mask, (0, 4))
    with torch.no_grad():
        assert torch.allclose(model(ids, mask).logits[:, :58], model(ids[:, :58]).logits, atol=TOLERANCE)


def test_a_step_beyond_the_learned_positions_is_refused():
    model, _ = patched(tiny_model("gpt2"))
    with torch.no_grad():
        cache = model(torch.tensor([[BOS, *range(100, 157)]]), use_cache=True).past_key_values
        with pytest.raises(PositionLimitError, match="6 vectors and 59 tokens"):
            model(torch.tensor([[9]]), past_key_values=cache)
    with pytest.raises(PositionLimitError, match="Shorten the text to 58 tokens"):
        model.generate(torch.tensor([[BOS, *range(100, 155)]]), max_new_tokens=20, do_sample=False, eos_token_id=None)


# A prefix is used again while nothing has changed, and never after


def changes() -> dict:
    def optimizer(**options):
        def step(model):
            model.patches["default"].grad = torch.ones(N, 32)
            torch.optim.AdamW([model.patches["default"]], lr=0.1, **options).step()

        return step

    def by_data(model):
        model.patches["default"].data.add_(0.5)

    def other_data(model):
        model.patches["default"].data = torch.full((N, 32), 0.5)

    def base_weights(model):
        model.get_base_model().load_state_dict(tiny_model(seed=1).state_dict())

    def base_in_place(model):
        with torch.no_grad():
            model.get_base_model().model.layers[0].mlp.up_proj.weight.mul_(2)

    def other_parameter(model):
        projection = model.get_base_model().model.layers[1].self_attn.k_proj
        projection.weight = torch.nn.Parameter(projection.weight.detach() * 2, requires_grad=False)

    return {
        "optimizer": optimizer(),
        "fused optimizer": optimizer(fused=True),
        "foreach optimizer": optimizer(foreach=True),
        "in place by .data": by_data,
        "other .data": other_data,
        "weights of the base": base_weights,
        "one weight in place": base_in_place,
        "another parameter": other_parameter,
    }


@pytest.mark.parametrize("change", changes())
def test_no_change_meets_a_stale_prefix(change):
    model, _ = patched(tiny_model())
    before = error_of(model, model.patches["default"].detach().clone())
    changes()[change](model)
    assert before <= TOLERANCE
    assert error_of(model, model.patches["default"].detach()) <= TOLERANCE


def test_a_change_of_dtype_and_back_meets_no_stale_prefix():
    model, _ = patched(tiny_model())
    ids = torch.tensor(ROWS[:1])
    fresh, _ = patched(tiny_model().bfloat16())
    with torch.no_grad():
        model.patches["default"].copy_(fresh.patches["default"])
        model(ids)
        model.get_base_model().bfloat16()
        assert torch.equal(model(ids).logits, fresh(ids).logits)
        model.get_base_model().float()
    assert error_of(model, model.patches["default"].detach()) <= TOLERANCE


def test_a_patch_of_the_same_name_meets_no_stale_prefix_of_the_deleted_one():
    model, _ = patched(tiny_model())
    assert error_of(model, model.patches["default"].detach()) <= TOLERANCE
    model.delete_patch("default")
    model.add_patch("default", PolicyPatchConfig(num_virtual_tokens=N, init="random", init_seed=9))
    model.set_patch("default")
    assert error_of(model, model.patches["default"].detach()) <= TOLERANCE


def test_a_prefix_made_in_inference_mode_serves_a_call_with_gradients():
    base = tiny_model()
    model, vectors = patched(base)
    with torch.inference_mode():
        model(torch.tensor(ROWS[:1]))
    model.patches["default"].requires_grad_(False)
    embeds = base.get_input_embeddings()(torch.tensor(ROWS[:1])).detach().requires_grad_()
    model(inputs_embeds=embeds).logits.sum().backward()
    assert embeds.grad.abs().sum() > 0
    assert error_of(model, vectors) <= TOLERANCE


def test_only_a_few_prefixes_are_kept():
    model, _ = patched(tiny_model())
    for number in range(MOST_KEPT + 3):
        model.add_patch(f"p{number}", PolicyPatchConfig(num_virtual_tokens=2, init="vocab", init_seed=number))
        model.set_patch(f"p{number}")
        with torch.no_grad():
            model(torch.tensor(ROWS[:1]))
    assert len(model._injection._primer._kept.prefixes) == MOST_KEPT


# Half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fp32_vectors_serve_and_train_on_a_half_precision_base(dtype):
    base = tiny_model().to(dtype)
    model, vectors = patched(base)
    assert model.patches["default"].dtype == torch.float32
    ids = torch.tensor(ROWS[:1])
    exact, _ = patched(tiny_model())
    with torch.no_grad():
        exact.get_base_model().load_state_dict(base.float().state_dict())
        exact.patches["default"].copy_(vectors)
        expected = exact(ids).logits
        base.to(dtype)
        logits = model(ids).logits
    assert logits.dtype == dtype
    assert (logits.float() - expected).abs().mean() <= 0.03 * expected.abs().mean()
    loss = model(ids, labels=ids).loss
    loss.backward()
    gradient = model.patches["default"].grad
    assert gradient.dtype == torch.float32 and gradient.isfinite().all() and gradient.abs().sum() > 0


# Threads


def test_two_threads_one_patched_and_one_not_never_mix():
    base = tiny_model()
    model, _ = patched(base)
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        plain, behind = base(ids).logits, model(ids).logits
    assert (plain - behind).abs().max() > 0.1
    barrier, wrong = threading.Barrier(2, timeout=60), []

    def call(expected):
        for _ in range(40):
            barrier.wait()
            with torch.no_grad():
                if not torch.allclose(model(ids).logits, expected, atol=TOLERANCE):
                    wrong.append(expected is plain)

    def call_disabled():
        with model.disable_patch():
            call(plain)

    threads = [threading.Thread(target=call_disabled), threading.Thread(target=call, args=(behind,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_call_in_the_middle_of_a_patched_one_from_another_thread_is_plain():
    base = tiny_model()
    model, _ = patched(base)
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        plain = base(ids).logits
    seen = []

    def from_another_thread(module, args):
        def call():
            with torch.no_grad():
                seen.append(base(ids).logits)

        hook.remove()
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    hook = base.model.layers[0].register_forward_pre_hook(from_another_thread)
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, plain)
    assert torch.equal(seen[0], plain)


def test_an_error_within_a_call_leaves_no_patch_behind():
    base = tiny_model()
    model, vectors = patched(base)
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        plain = base(ids).logits
        with pytest.raises(PatchInputError):
            model(ids, attention_mask=torch.ones(1, 3))
        with pytest.raises(RuntimeError, match="inside"), model.disable_patch():
            raise RuntimeError("inside")
        assert torch.equal(base(ids).logits, plain)
    assert error_of(model, vectors) <= TOLERANCE, "and the patch is active again"


# Hooks


def test_hooks_are_one_pair_and_go_with_unload():
    base = tiny_model()
    count = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules())  # noqa: E731
    first, _ = patched(base)
    second = first.frozen_copy()
    assert count() == 8
    first.unload()
    assert count() == 4
    assert error_of(second, second.patches["default"]) <= TOLERANCE, "the other wrapper goes on"
    second.unload()
    assert count() == 0


def test_an_unloaded_model_does_not_run_unpatched_silently():
    model, _ = patched(tiny_model())
    model.unload()
    model.set_patch("default")
    for call in (model, model.generate, model.base_model):
        with pytest.raises(PatchInputError, match="This model was unloaded: its base runs without a patch"):
            call(torch.tensor(ROWS[:1]))


# Inputs that no patch can serve


def test_a_mask_of_four_dimensions_is_refused():
    model, _ = patched(tiny_model())
    with pytest.raises(PatchInputError, match="`attention_mask` must be 2-D"):
        model(torch.tensor(ROWS[:1]), attention_mask=torch.ones(1, 1, 20, 20))
    with pytest.raises(PatchInputError, match="`attention_mask` must be 2-D"):
        model(torch.tensor(ROWS[:1]), attention_mask={"full_attention": torch.ones(1, 1, 20, 20)})


def test_a_mask_that_counts_the_vectors_is_refused():
    model, _ = patched(tiny_model())
    with pytest.raises(PatchInputError, match=r"shape \(1, 26\); the tokens have \(1, 20\).* Do not count the vectors"):
        model(torch.tensor(ROWS[:1]), attention_mask=torch.ones(1, 26))


def test_a_static_cache_without_room_for_the_vectors_is_refused():
    base = tiny_model()
    model, vectors = patched(base)
    with torch.no_grad():
        cache = StaticCache(config=base.config, max_cache_len=N + 20)
        logits = model(torch.tensor(ROWS[:1]), past_key_values=cache).logits[0]
        assert (logits - logits_by_definition(base, vectors, ROWS[0])).abs().max() <= TOLERANCE
        with pytest.raises(PatchInputError, match="has room for 26 columns; vectors and text need 27"):
            model(torch.tensor([[5]]), past_key_values=cache)
        with pytest.raises(PatchInputError, match="has room for 25 columns; vectors and text need 26"):
            model(torch.tensor(ROWS[:1]), past_key_values=StaticCache(config=base.config, max_cache_len=N + 19))
    cache = StaticCache(config=base.config, max_cache_len=64)
    with pytest.raises(PatchInputError, match=r'must be 2-D.*Give `cache_implementation="static"`'):
        model.generate(torch.tensor(ROWS[:1]), past_key_values=cache, max_new_tokens=3, do_sample=False)


def test_a_cache_of_an_encoder_and_a_decoder_is_refused():
    base = tiny_model()
    cache = EncoderDecoderCache(DynamicCache(config=base.config), DynamicCache(config=base.config))
    with pytest.raises(PatchInputError, match="is a EncoderDecoderCache; a patch can fill a `Cache` of a decoder only"):
        patched(base)[0](torch.tensor(ROWS[:1]), past_key_values=cache)


def test_a_cache_filled_without_the_patch_is_refused():
    base = tiny_model()
    model, _ = patched(base)
    cache = DynamicCache(config=base.config)
    with torch.no_grad():
        base(torch.tensor(ROWS[:1]), **{model._injection.cache_name: cache})
        with pytest.raises(PatchInputError, match="was filled without the patch"):
            model(torch.tensor([[5]]), past_key_values=cache)
    with pytest.raises(PatchInputError, match="was filled without the patch"):
        model.generate(torch.tensor([[*ROWS[0], 5]]), past_key_values=cache, max_new_tokens=2)


def test_a_cache_filled_behind_other_patches_is_refused():
    model, _ = patched(tiny_model())
    model.add_patch("other", CONFIG)
    copy = model.frozen_copy()
    with torch.no_grad():
        cache = model(torch.tensor(ROWS[:1]), use_cache=True).past_key_values
        with pytest.raises(PatchInputError, match="was filled behind other patches"):
            copy(torch.tensor([[5]]), past_key_values=cache)
        model.set_patch("other")
        with pytest.raises(PatchInputError, match="was filled behind other patches"):
            model(torch.tensor([[5]]), past_key_values=cache)


def test_an_empty_cache_of_the_caller_is_filled():
    base = tiny_model()
    model, vectors = patched(base)
    cache = DynamicCache(config=base.config)
    with torch.no_grad():
        for before, after in pairwise([0, 7, 20]):
            logits = model(torch.tensor([ROWS[0][before:after]]), past_key_values=cache, use_cache=True).logits
        expected = logits_by_definition(base, vectors, ROWS[0])[7:]
    assert (logits[0] - expected).abs().max() <= TOLERANCE
    assert cache.get_seq_length() == 20


def test_token_types_and_no_tokens_at_all_are_refused():
    model, _ = patched(tiny_model("gpt2"))
    ids = torch.tensor(ROWS[:1])
    with pytest.raises(PatchInputError, match="`token_type_ids` have no value for the vectors"):
        model(ids, token_type_ids=torch.zeros_like(ids))
    with pytest.raises(PatchInputError, match="Neither `input_ids` nor `inputs_embeds`"):
        model(attention_mask=torch.ones(1, 3))
