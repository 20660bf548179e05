"""How many patch tokens CTranslate2 and llama.cpp sample at temperature 1, with the suppression files and without.

    PYTHONPATH=. python benchmarks/suppressed_sampling.py --output docs/results/suppressed_sampling.json

The checkpoint is that of `vllm_baked.py`: the lab's base with its three patches; the control is a copy whose head
equals the embeddings. CTranslate2 gets `ctranslate2.json`; llama.cpp gets in each request what `logit_bias.json` says.
`baked_sampling.py` does the same in transformers, `vllm_baked.py` in vLLM.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import ctranslate2
from stored_run import made_with, write_result
from transformers import AutoTokenizer
from vllm_baked import baked, bound_of, with_tied_head
from vllm_engine import PROMPTS

from policy_patch.export.gguf_baked import baked_gguf
from policy_patch.export.gguf_export import FILE_NAME
from tests.engines.llama_cpp import llama_cpp

LENGTH, AT_ONCE = 25, 8


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tokens", type=int, default=20_000, help="sampled tokens of each count")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "baked")
        ids = baked(folder)
        found: dict[str, dict[str, int]] = {}
        for case, checkpoint in {"baked": folder, "control": with_tied_head(folder, Path(name, "tied"))}.items():
            for engine in (in_ctranslate2, in_llama_cpp):
                for is_suppressed in (False, True):
                    tokens = engine(
                        checkpoint, Path(name, f"{case}-{engine.__name__}-{is_suppressed}"), args.tokens, is_suppressed
                    )
                    assert len(tokens) == args.tokens, f"{len(tokens)} tokens came"
                    label = f"{case}, suppressed" if is_suppressed else case
                    found.setdefault(engine.__name__.removeprefix("in_"), {})[label] = sum(one in ids for one in tokens)
        result = {"made_with": made_with(), "tokens": args.tokens, "bound": bound_of(folder), "patch_tokens": found}
    write_result(args.output, result)
    good = all(one["control"] > 0 == one["control, suppressed"] == one["baked, suppressed"] for one in found.values())
    sys.exit(0 if good else 1)


def in_ctranslate2(checkpoint: Path, place: Path, count: int, is_suppressed: bool) -> list[int]:
    """Return `count` tokens sampled after the default patch."""
    ctranslate2.converters.TransformersConverter(str(checkpoint)).convert(str(place))
    generator = ctranslate2.Generator(str(place), compute_type="float32", intra_threads=1)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    file = checkpoint / "suppression" / "ctranslate2.json"
    more = json.loads(file.read_text()) if is_suppressed else {}
    rows = [tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS] * AT_ONCE
    found: list[int] = []
    ctranslate2.set_random_seed(0)
    while len(found) < count:
        answers = generator.generate_batch(
            rows, max_length=LENGTH, min_length=LENGTH, sampling_topk=0, sampling_temperature=1.0,
            include_prompt_in_result=False, **more,
        )  # fmt: skip
        found += [token for answer in answers for token in answer.sequences_ids[0]]
    return found[:count]


def in_llama_cpp(checkpoint: Path, place: Path, count: int, is_suppressed: bool) -> list[int]:
    """Return `count` tokens sampled in chat with the default patch."""
    baked_gguf(checkpoint, place)
    file = checkpoint / "suppression" / "logit_bias.json"
    more = json.loads(file.read_text()) if is_suppressed else {}
    body = {"n_predict": LENGTH, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "return_tokens": True}
    found: list[int] = []
    with llama_cpp(place / FILE_NAME, slots=AT_ONCE) as engine:
        rendered = [
            engine.post("/apply-template", messages=[{"role": "user", "content": prompt}])["prompt"]
            for prompt in PROMPTS
        ]
        while len(found) < count:
            prompt = rendered[len(found) % len(rendered)]
            answer = engine.post(
                "/completion", prompt=[prompt] * AT_ONCE, seed=len(found), ignore_eos=True, **body, **more
            )
            found += [token for each in answer for token in each["tokens"]]
    return found[:count]


if __name__ == "__main__":
    main()
