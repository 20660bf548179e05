"""Patches are swapped while other threads generate; each call keeps the stack it began with, and no prefix is stale."""

import random
import threading

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from tests.definition import generate_by_definition
from tests.tiny_models import BOS, PAD, VOCAB_SIZE, tiny_model

THREADS, RUNS = 8, 200
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": PAD, "eos_token_id": None}
ROWS = [[BOS, *range(20 + index, 24 + index)] for index in range(4)]
STACKS = [("p0",), ("p1",), ("p2",), ("p3",), ("p0", "p1"), ("p3", "p0", "p2")]


def patched(base=None):
    model = PolicyPatchModel(base or tiny_model())
    for seed in range(4):
        config = PolicyPatchConfig(num_virtual_tokens=3 + seed, init="random", init_seed=seed)
        model.add_patch(f"p{seed}", config)
        with torch.no_grad():
            model.patches[f"p{seed}"].mul_(3)
    return model.eval().requires_grad_(False)  # as patches are that serve


def run_in_threads(work, count: int = THREADS) -> None:
    """Run `work(number)` in that many threads at once; an error of one is an error of the test."""
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_8_threads_of_200_generations_with_random_swaps_each_equal_their_single_run():
    model = patched()
    alone = {}
    for names in STACKS:
        model.set_patch(names)
        for index, row in enumerate(ROWS):
            alone[names, index] = model.generate(torch.tensor([row]), **OPTIONS)[0].tolist()
    assert len({tuple(text[5:]) for text in alone.values()}) > len(STACKS), "the stacks really differ"
    began_with: dict[int, tuple[str, ...]] = {}
    take = model._batch_stacks

    def noted(patch_names):  # which stack this call began with; another thread may have set it
        stacks = take(patch_names)
        began_with[threading.get_ident()] = stacks.stacks[0].names
        return stacks

    model._batch_stacks = noted
    wrong, seen = [], set()

    def work(number):
        choose = random.Random(number)
        for _ in range(RUNS):
            model.set_patch(choose.choice(STACKS))
            index = choose.randrange(len(ROWS))
            found = model.generate(torch.tensor([ROWS[index]]), **OPTIONS)[0].tolist()
            names = began_with[threading.get_ident()]
            seen.add(names)
            if found != alone[names, index]:
                wrong.append((names, index, found))

    run_in_threads(work)
    assert not wrong and seen == set(STACKS)


def test_threads_with_mixed_batches_of_their_own_do_not_mix():
    model, alone = patched(), {}
    for names in STACKS:
        model.set_patch(names)
        alone[names] = model.generate(torch.tensor(ROWS[:1]), **OPTIONS)[0].tolist()

    def work(number):
        choose = random.Random(number)
        for _ in range(20):
            names = [choose.choice(STACKS) for _ in range(3)]
            found = model.generate(torch.tensor(ROWS[:1] * 3), patch_names=names, **OPTIONS).tolist()
            assert found == [alone[entry] for entry in names]

    run_in_threads(work)


def test_several_wrappers_on_one_base_generate_at_once():
    base = tiny_model()
    models = [patched(base) for _ in range(3)]
    for model, names in zip(models, STACKS):
        model.set_patch(names)
    vectors = [model.patches[names[0]].detach() for model, names in zip(models, STACKS)]
    expected = [generate_by_definition(base, each, ROWS[0], 4) for each in vectors]
    plain = base.generate(torch.tensor(ROWS[:1]), **OPTIONS)[0].tolist()

    def work(number):
        for _ in range(20):
            if number == 3:
                assert base.generate(torch.tensor(ROWS[:1]), **OPTIONS)[0].tolist() == plain
            else:
                found = models[number].generate(torch.tensor(ROWS[:1]), **OPTIONS)[0, 5:].tolist()
                assert found == expected[number]

    run_in_threads(work, 4)


def test_a_patch_that_is_deleted_or_trained_meanwhile_ends_its_call_as_it_began():
    model = patched()
    model.set_patch("p3")
    expected = model.generate(torch.tensor(ROWS[:1]), **OPTIONS)[0].tolist()
    steps = []

    def meanwhile(input_ids, scores):
        steps.append(1)
        if len(steps) == 2:
            with torch.no_grad():
                model.patches["p3"].mul_(5)
            model.delete_patch("p3")
        return scores

    assert model.generate(torch.tensor(ROWS[:1]), logits_processor=[meanwhile], **OPTIONS)[0].tolist() == expected
    assert model.active_patches == [] and len(steps) == 4


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_drawn_anew_for_each_prefix_and_never_kept(training):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCAB_SIZE, n_positions=64))
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=4, init="random"))
    ids = torch.tensor(ROWS[:1])
    model.eval()
    with torch.no_grad():
        expected = model(ids).logits
        model.train(training)
        assert torch.equal(model(ids).logits, model(ids).logits) != training
        model.eval()
        assert torch.equal(model(ids).logits, expected)


def test_a_base_spread_by_a_device_map_is_patched_like_any_other(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    base = tiny_model()
    base.save_pretrained(tmp_path / "base")
    spread = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "disk"}
    spread |= {"lm_head": "cpu", "model.rotary_emb": "cpu"}
    on_disk = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map=spread, offload_folder=str(tmp_path / "offloaded"), dtype=torch.float32
    ).eval()
    assert any(parameter.is_meta for parameter in on_disk.parameters()), "a part is really on the disk"
    model = patched(on_disk)
    model.set_patch("p1")
    expected = generate_by_definition(base, model.patches["p1"].detach(), ROWS[0], 4)
    for _ in range(2):
        assert model.generate(torch.tensor(ROWS[:1]), **OPTIONS)[0, 5:].tolist() == expected
