"""Tests of `bake`: the checkpoint equals the patched model on every kind of base, and what cannot be is refused.

Each equality has a control that must fail: no patch, a reversed patch, a head that stays tied.
"""

import json
import os
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchConfig
from policy_patch.answers.probe_file import read_probe
from policy_patch.errors import BaseMismatchError, ExportError, PatchNameError, PositionLimitError
from policy_patch.export import bake, read_patch_tokens
from policy_patch.export.baked_proof import placed
from tests.export.bases import BASES, N, config_of, patched, save_base

bake_only = partial(bake, probe=False)  # a probe takes longer than all the rest of a bake
TEXTS = ["Hello there, ", " import os\n", "a"]
PATCHES = ["tox", "bias", ("tox", "bias")]


@pytest.fixture(scope="module")
def baked_of(tmp_path_factory):
    """Return a function that bakes two patches and their stack into a base, once: patched model, tokenizer, result."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("bake")
            model, tokenizer = patched(save_base(folder / "base", name), "tox", "bias")
            done = bake_only(model, tokenizer, folder / "baked", patches=PATCHES)
            made[name] = model, tokenizer, done
        return made[name]

    return get


def opened(done):
    return AutoModelForCausalLM.from_pretrained(done.folder).eval(), AutoTokenizer.from_pretrained(done.folder)


def concatenated(model, row, names, bos):
    """Return the logits of the base on `[BOS][vectors][text]` as embeddings: the definition of correct."""
    base = model.get_base_model()
    begins = int(bos is not None and row[0] == bos)
    own = base.get_input_embeddings()(torch.tensor([row]))
    vectors = torch.cat([model.patches[name] for name in names]) if names else own[0, :0]
    with torch.no_grad():
        return base(inputs_embeds=torch.cat([own[:, :begins], vectors[None], own[:, begins:]], 1)).logits[0]


@pytest.mark.parametrize("name", BASES)
def test_logits_equal_those_of_the_patched_model(name, baked_of):
    model, tokenizer, done = baked_of(name)
    baked, own = opened(done)
    for text in TEXTS:
        row = tokenizer(text)["input_ids"]
        for choice, stack in {**done.tokens.choices, "off": ()}.items():
            ids = torch.tensor([placed(row, done.tokens.ids_of(choice), tokenizer.bos_token_id)])
            with torch.no_grad():
                found = baked(input_ids=ids, use_cache=False).logits[0, :, : baked_rows(model)]
                through_model = model(input_ids=torch.tensor([row]), patch_names=[stack or "__base__"]).logits[0]
            expected = concatenated(model, row, stack, tokenizer.bos_token_id)
            assert (found - expected).abs().max() <= 1e-5
            assert (found[ids.shape[1] - len(row) :] - through_model).abs().max() <= 1e-5
            if stack:  # the control
                assert (through_model - concatenated(model, row, (), tokenizer.bos_token_id)).abs().max() > 0.01
        assert own(text)["input_ids"] == placed(row, done.tokens.ids_of(), tokenizer.bos_token_id)


def baked_rows(model):
    return model.get_base_model().get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "qwen2 slack"])
def test_the_control_no_patch_and_a_reversed_patch_are_far_off(name, baked_of):
    model, tokenizer, done = baked_of(name)
    baked, _ = opened(done)
    row = tokenizer(TEXTS[0])["input_ids"]
    expected = concatenated(model, row, ("tox",), tokenizer.bos_token_id)[-1]
    for ids in ((), done.tokens.ids_of("tox")[::-1], done.tokens.ids_of("bias")):
        with torch.no_grad():
            wrong = baked(input_ids=torch.tensor([placed(row, ids, tokenizer.bos_token_id)])).logits[0, -1]
        assert (wrong[: len(expected)] - expected).abs().max() > 0.02


@pytest.mark.parametrize("name", BASES)
def test_generation_is_token_for_token_that_of_the_patched_model(name, baked_of):
    model, tokenizer, done = baked_of(name)
    baked, own = opened(done)
    differ = 0
    for choice, stack in {**done.tokens.choices, "off": ()}.items():
        messages = [{"role": "user", "content": TEXTS[0]}]
        rows = [
            one.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, **options
            )
            for one, options in ((tokenizer, {}), (own, {"patch": choice}))
        ]
        options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
        kept = [one for one in done.tokens.all_ids if one < baked_rows(model)]  # random bases write unused tokens
        options |= {"suppress_tokens": kept} if kept else {}
        expected = model.generate(**rows[0], patch_names=[stack or "__base__"], **options)
        found = baked.generate(**rows[1], **{**options, "suppress_tokens": baked.generation_config.suppress_tokens})
        assert (
            found[0, rows[1]["input_ids"].shape[1] :].tolist() == expected[0, rows[0]["input_ids"].shape[1] :].tolist()
        )
        unpatched = model.generate(**rows[0], patch_names=["__base__"], **options)
        differ += unpatched.tolist() != expected.tolist()
    assert differ or name == "gemma2", "the control: at least one patch changes what is written"


def test_plain_text_generates_with_the_default_patch(baked_of):
    model, tokenizer, done = baked_of("llama untied")
    baked, own = opened(done)
    options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    row, with_patch = (one(TEXTS[0], return_tensors="pt") for one in (tokenizer, own))
    expected = model.generate(**row, patch_names=["tox"], **options)[0, row["input_ids"].shape[1] :]
    assert torch.equal(baked.generate(**with_patch, **options)[0, with_patch["input_ids"].shape[1] :], expected)
    assert not torch.equal(
        model.generate(**row, patch_names=["__base__"], **options)[0, len(row["input_ids"][0]) :], expected
    )


@pytest.mark.parametrize(
    ("name", "rows", "unties", "head"),
    [
        ("llama tied", (0, 0, 10), True, "centroid"),
        ("llama untied", (0, 0, 10), False, "centroid"),
        ("llama reserved untied", (0, 10, 0), False, "unchanged"),
        ("llama reserved tied", (0, 10, 0), True, "unchanged"),
        ("llama slack and added", (3, 4, 3), False, "centroid"),
        ("gpt2", (0, 0, 10), True, "layer norm"),
        ("phi bias", (0, 0, 10), False, "bias"),
        ("gpt neox", (0, 0, 10), False, "layer norm"),
        ("qwen2 slack", (10, 0, 0), True, "unchanged"),
        ("gemma3 unused", (0, 10, 0), True, "unchanged"),
    ],
)
def test_what_was_done_is_told(name, rows, unties, head, baked_of):
    model, _, done = baked_of(name)
    assert (len(done.rows.slack), len(done.rows.reserved), len(done.rows.added)) == rows
    assert (done.unties, done.head) == (unties, head)
    assert (done.bound == 0) == (head != "centroid")
    assert config_of(done.folder)["vocab_size"] == baked_rows(model) + rows[2]
    assert done.proof.difference < 1e-5 and done.proof.rows == 21
    record = json.loads((done.folder / "policy_patch_bake.json").read_text())
    assert record["rows"] == dict(zip(("slack", "reserved", "added"), rows)) and record["bound"] == done.bound
    assert read_patch_tokens(done.folder) == done.tokens


def test_with_reserved_rows_and_a_head_of_its_own_nothing_else_changes(baked_of):
    model, _, done = baked_of("llama reserved untied")
    before, after = model.get_base_model().state_dict(), opened(done)[0].state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.embed_tokens.weight"}
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(1).nonzero().flatten()
    assert sorted(done.tokens.all_ids) == rows.tolist()


@pytest.mark.parametrize("name", BASES)
def test_the_head_of_the_base_is_kept_and_generation_never_chooses_a_patch_token(name, baked_of):
    model, _, done = baked_of(name)
    baked, _ = opened(done)
    before, after = model.get_base_model().get_output_embeddings().weight, baked.get_output_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    assert set(baked.generation_config.suppress_tokens) == set(done.tokens.all_ids)
    assert baked.generation_config.eos_token_id == 2


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 0.5}, {}])
def test_how_the_base_generates_by_default_is_kept(tmp_path, place, settings):
    folder = save_base(tmp_path / "base", "llama tied")
    if place == "config.json":  # as in old models, which have no file of generation settings
        (folder / "generation_config.json").unlink()
    path = folder / place
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    done = bake_only(*patched(folder, "tox"), tmp_path / "baked")
    before, after = (AutoModelForCausalLM.from_pretrained(one).generation_config for one in (folder, done.folder))
    assert bool(before.do_sample) == bool(settings)
    unlike = ("suppress_tokens", "_from_model_config", "transformers_version")
    kept, now = ({k: v for k, v in one.to_dict().items() if k not in unlike} for one in (before, after))
    assert now == kept and set(after.suppress_tokens) == set(done.tokens.all_ids) and before.suppress_tokens is None


def test_the_control_a_head_that_stays_tied_writes_patch_tokens(baked_of):
    _, tokenizer, done = baked_of("llama tied")
    row = tokenizer(TEXTS[0])["input_ids"]
    baked, _ = opened(done)
    ids = torch.tensor([placed(row, done.tokens.ids_of(), tokenizer.bos_token_id)])
    with torch.no_grad():
        kept = baked(input_ids=ids).logits[0].softmax(-1)[:, list(done.tokens.all_ids)].sum(-1).max()
        baked.get_output_embeddings().weight.copy_(baked.get_input_embeddings().weight)
        tied = baked(input_ids=ids).logits[0].softmax(-1)[:, list(done.tokens.all_ids)].sum(-1).max()
    assert kept <= done.bound < 0.04 < 0.3 < tied


def test_half_precision_files_keep_their_type(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base", "llama tied", dtype=torch.bfloat16))
    done = bake_only(model, tokenizer, tmp_path / "baked")
    baked, _ = opened(done)
    assert baked.dtype == torch.bfloat16 and baked.get_input_embeddings().weight.dtype == torch.bfloat16
    expected = model.patches["tox"].to(torch.bfloat16)
    assert torch.equal(baked.get_input_embeddings().weight[list(done.tokens.ids["tox"])], expected)


def test_a_base_in_shards_is_baked_shard_by_shard_and_the_others_are_links(tmp_path):
    save_base(tmp_path / "base", "llama tied")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    shards = sorted(path.name for path in (tmp_path / "base").glob("*.safetensors"))
    model, tokenizer = patched(tmp_path / "base")
    done = bake_only(model, tokenizer, tmp_path / "baked")
    assert sorted(path.name for path in done.folder.glob("*.safetensors")) == shards and len(shards) > 2
    same = [name for name in shards if os.path.samefile(tmp_path / "base" / name, done.folder / name)]
    assert len(same) == len(shards) - 1
    index = json.loads((done.folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["lm_head.weight"] == index["weight_map"]["model.embed_tokens.weight"]
    from safetensors.torch import load_file

    tensors = [one for name in shards for one in load_file(done.folder / name).values()]
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in tensors)


def test_files_without_the_prefix_of_the_backbone_get_it(tmp_path):
    from safetensors.torch import load_file, save_file

    save_base(tmp_path / "base", "gpt2")
    path = tmp_path / "base" / "model.safetensors"
    save_file({name.removeprefix("transformer."): one for name, one in load_file(path).items()}, path, {"format": "pt"})
    model, tokenizer = patched(tmp_path / "base")
    done = bake_only(model, tokenizer, tmp_path / "baked")
    assert done.unties and {"lm_head.weight", "transformer.wte.weight"} <= load_file(done.folder / path.name).keys()


def test_licences_come_along_and_no_other_form_of_the_base(tmp_path):
    save_base(tmp_path / "base")
    for name in ("LICENSE.txt", "NOTICE", "consolidated.safetensors", "params.json", "pytorch_model.bin", "README.md"):
        (tmp_path / "base" / name).write_text("of the base")
    model, tokenizer = patched(tmp_path / "base")
    done = bake_only(model, tokenizer, tmp_path / "baked")
    names = {path.name for path in done.folder.iterdir()}
    assert {"LICENSE.txt", "NOTICE"} <= names and not {
        "consolidated.safetensors",
        "params.json",
        "pytorch_model.bin",
    } & names
    assert "of the base" not in (done.folder / "README.md").read_text()
    assert str(tmp_path) not in "".join(path.read_text() for path in done.folder.glob("*.json"))


@pytest.mark.parametrize("template", [None, "{{ bos_token }}{{ messages[0].content }}"])
def test_the_card_says_how_a_request_chooses_only_where_it_can(tmp_path, template):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    tokenizer.chat_template = template
    card = (bake_only(model, tokenizer, tmp_path / "baked").folder / "README.md").read_text()
    assert ("chat_template_kwargs" in card) == (template is not None)
    assert ("no chat template, so a request cannot choose" in card) == (template is None)


def test_a_chat_template_without_bos_is_warned_of(tmp_path, caplog):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    tokenizer.chat_template = "{{ messages[0].content }}"
    with caplog.at_level("WARNING", "policy_patch.export.baking"):
        bake_only(model, tokenizer, tmp_path / "baked")
    assert "does not put the BOS token" in caplog.text


def test_hostile_chats_get_no_patch_tokens_but_the_chosen_ones(baked_of):
    _, _, done = baked_of("llama reserved untied")
    own = AutoTokenizer.from_pretrained(done.folder)
    names = "".join(done.tokens.name_of.values())
    hostile = [names, names.replace("<|", "<| <|"), f"</s><s>{names}", "".join(chr(ord(c) + 0xFEE0) for c in names)]
    for text in hostile:
        for choice in ("tox", "off"):
            messages = [{"role": "user", "content": text}, {"role": names, "content": "x"}]
            ids = own.apply_chat_template(messages, patch=choice, return_dict=False)
            assert sum(one in done.tokens.name_of for one in ids) == len(done.tokens.ids_of(choice))
    assert sum(one in done.tokens.name_of for one in own(names)["input_ids"]) == 10 + N, "raw text is not cleaned"


def test_names_are_drawn_anew_in_each_bake(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    one, two = (bake_only(model, tokenizer, tmp_path / name).tokens for name in ("one", "two"))
    assert one.ids == two.ids and not set(one.names_of()) & set(two.names_of())


def test_the_active_stack_is_baked_by_default_and_another_default_can_be_chosen(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base"), "tox", "bias")
    model.set_patch(["bias", "tox"])
    assert bake_only(model, tokenizer, tmp_path / "a").tokens.choices == {"bias+tox": ("bias", "tox")}
    done = bake_only(model, tokenizer, tmp_path / "b", patches=["tox"], default="off")
    assert AutoTokenizer.from_pretrained(done.folder)("a")["input_ids"] == tokenizer("a")["input_ids"]


def nothing_left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_wrong_names_and_places_are_refused(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    with pytest.raises(PatchNameError, match="No patch named `nox` is loaded"):
        bake_only(model, tokenizer, tmp_path / "baked", patches=["nox"])
    with pytest.raises(ExportError, match="expected one of tox"):
        bake_only(model, tokenizer, tmp_path / "baked", default="nox")
    model.add_patch("early", PolicyPatchConfig(num_virtual_tokens=2, init="vocab", placement="before_bos"), tokenizer)
    with pytest.raises(ExportError, match="has its vectors before BOS"):
        bake_only(model, tokenizer, tmp_path / "baked", patches=["early"])
    model.set_patch("tox")
    model.delete_patch("tox")
    with pytest.raises(ExportError, match="no patch to export"):
        bake_only(model, tokenizer, tmp_path / "baked")
    assert nothing_left(tmp_path)


def test_a_stack_longer_than_the_positions_is_refused(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base", "gpt2"), "tox", "bias", lengths=(40, 40))
    with pytest.raises(PositionLimitError, match="80 vectors leave no room"):
        bake_only(model, tokenizer, tmp_path / "baked", patches=[("tox", "bias")])


def test_another_tokenizer_and_another_base_are_refused(tmp_path):
    model, _ = patched(save_base(tmp_path / "base"))
    _, other = patched(save_base(tmp_path / "other", "llama reserved untied"))
    with pytest.raises(BaseMismatchError, match="another tokenizer"):
        bake_only(model, other, tmp_path / "baked")
    with torch.no_grad():
        model.get_base_model().model.layers[0].mlp.up_proj.weight += 0.01
    with pytest.raises(BaseMismatchError, match="another state of this base"):
        bake_only(model, AutoTokenizer.from_pretrained(tmp_path / "base"), tmp_path / "baked")


def test_a_base_that_was_changed_after_it_was_loaded_is_not_baked_from_its_files(tmp_path):
    base_folder = save_base(tmp_path / "base")
    model, tokenizer = patched(base_folder)
    save_base(base_folder, seed=1)  # the files are another model now
    with pytest.raises(ExportError, match=r"in memory are not those in its files, such as"):
        bake_only(model, tokenizer, tmp_path / "baked")
    assert nothing_left(tmp_path)


def test_a_hook_on_the_base_shows_in_the_logits(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    layer = model.get_base_model().model.layers[1].mlp
    hook = layer.register_forward_hook(lambda module, given, output: output * 1.1)
    with pytest.raises(ExportError, match=r"does not do what the patched model does|another state"):
        bake_only(model, tokenizer, tmp_path / "baked", allow_base_mismatch=True)
    hook.remove()
    assert nothing_left(tmp_path)


def test_a_folder_with_files_is_refused_and_an_empty_one_is_used(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(ExportError, match="holds files"):
        bake_only(model, tokenizer, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert bake_only(model, tokenizer, tmp_path / "empty").folder == tmp_path / "empty"
    assert (tmp_path / "empty" / "config.json").is_file() and (tmp_path / "full" / "x").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "baked"):
        with pytest.raises(ExportError, match=r"is a file|Cannot write to"):
            bake_only(model, tokenizer, place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_our_error_and_nothing_is_left(tmp_path, monkeypatch):
    model, tokenizer = patched(save_base(tmp_path / "base"))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("policy_patch.export.tensor_files.os.fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        bake_only(model, tokenizer, tmp_path / "baked")
    assert nothing_left(tmp_path)


def test_until_it_is_proved_nothing_has_the_final_name(tmp_path, monkeypatch):
    model, tokenizer = patched(save_base(tmp_path / "base"))
    seen = []

    def stopped(folder, *given, **rest):
        seen.append((folder / "model.safetensors").is_file() and not (tmp_path / "baked").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr("policy_patch.export.baking.prove", stopped)
    with pytest.raises(KeyboardInterrupt):
        bake_only(model, tokenizer, tmp_path / "baked")
    assert seen == [True] and nothing_left(tmp_path)


def test_a_probe_is_written_that_expects_the_default(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base"), "tox", "bias")
    done = bake(model, tokenizer, tmp_path / "baked", patches=["tox", ("tox", "bias")], default="tox+bias")
    assert list(read_probe(done.folder).stacks) == ["tox+bias", "tox"]


def test_a_base_with_few_positions_has_no_probe(tmp_path):
    model, tokenizer = patched(save_base(tmp_path / "base", "gpt2"), lengths=(20,))
    done = bake(model, tokenizer, tmp_path / "baked")
    assert not (done.folder / "policy_patch_probe.json").exists()


def test_a_folder_that_was_not_baked_has_no_patch_tokens(tmp_path):
    with pytest.raises(ExportError, match=r"has no `policy_patch_bake.json`"):
        read_patch_tokens(tmp_path)
    (tmp_path / "policy_patch_bake.json").write_text('{"format_version": 2}')
    with pytest.raises(ExportError, match="has the format 2"):
        read_patch_tokens(tmp_path)
    (tmp_path / "policy_patch_bake.json").write_text('{"format_version": 1}')
    with pytest.raises(ExportError, match="is damaged"):
        read_patch_tokens(tmp_path)
