"""The recipe, in small: same bytes twice, and the tokenizer that comes with the package is what the recipe makes.

The full recipe takes minutes and is not run here.
"""

import dataclasses

import torch

from policy_patch.lab import LAB_MODELS_PATH, build
from policy_patch.lab.grammar import documents


def test_training_twice_writes_the_same_bytes(tmp_path):
    stage = dataclasses.replace(build.BASE_STAGE, steps=3, batch_size=4)
    tokenizer = build.train_tokenizer(documents(200, flawed=True, seed=0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in ("first", "second"):
            model = build.new_model()
            build.train(model, tokenizer, stage, lambda line: None)
            build.save(model, tmp_path / name)
    finally:
        torch.set_num_threads(threads)
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_the_recipe_makes_the_tokenizer_of_the_package(tmp_path):
    build.train_tokenizer(documents(build.TOKENIZER_DOCUMENTS, flawed=True, seed=0)).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (LAB_MODELS_PATH / "base" / "tokenizer.json").read_bytes()


def test_training_tells_of_its_progress():
    lines = []
    stage = dataclasses.replace(build.TEACHER_STAGE, steps=50, batch_size=1)
    build.train(build.new_model(), build.train_tokenizer(documents(50, flawed=False, seed=0)), stage, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("teacher: step 50/50, loss ")
