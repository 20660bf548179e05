"""Does the probe tell what a server has? 20 patches each in servers that have them, not, another version, or in part.

    python benchmarks/served_probe.py --output docs/results/served_probe.json

On the lab's base. Each of 20 patches is one of the lab's three or starts from random tokens. For each, probes are
recorded of it, of a later version (its vectors moved by 0.3 of their spread), and of a patch that has nothing to do
with it. Servers are then asked 20 prompts, in this process:

- the patch is on, off, the later version (with its probe given by `others`, and unknown), another patch (unknown);
- one stale answer of 20: the base's, and the later version's; half of the answers the base's;
- engines with weights rounded to 16, 8 and 4 bits: on and off;
- on and off, where the server gives no log-probabilities.

With --engines, real ones are asked over HTTP with the lab's three patches: llama.cpp (the package xllamacpp) in fp32
and Q8_0, by chat with each patch and without, and by raw completions.
"""

import argparse
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from stored_run import made_with, write_result

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.answers.probe_likelihood import Seen, seen_of
from policy_patch.answers.probe_noise import Rounded
from policy_patch.answers.served_probe import next_tokens_of, record_probe
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.serving import probe
from policy_patch.serving.verdict import candidates_of, verdict_on

RISKS = {"tox": "toxicity", "bias": "gender_bias", "harm": "harmfulness"}
KINDS = ("F32", "Q8_0")


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    done: dict[str, Any] = {"settings": {**vars(args), "output": None, **made_with()}}
    counts: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.patches):
            for case, verdict in verdicts(number, Path(folder)):
                counts.setdefault(case, Counter())[verdict] += 1
        done["verdicts"] = {case: dict(found) for case, found in counts.items()}
        if args.engines:
            done["engines"] = dict(engines(Path(folder)))
    write_result(args.output, done)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--patches", type=int, default=20)
    parser.add_argument("--engines", action="store_true")
    return parser.parse_args()


def patched(number: int) -> PolicyPatchModel:
    """Return the base with the patches `own`, `later` and `other`."""
    model = PolicyPatchModel(load_lab_base())
    if number < len(RISKS):
        risk = list(RISKS.values())[number]
        for name in ("own", "later"):
            model.load_patch(lab_patch_folder(risk), name)
    else:
        for name in ("own", "later"):
            model.add_patch(name, PolicyPatchConfig(num_virtual_tokens=20, init="vocab", init_seed=number))
    model.add_patch("other", PolicyPatchConfig(num_virtual_tokens=20, init="vocab", init_seed=1000 + number))
    with torch.no_grad():
        vectors = model.patches["later"]
        noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(number))
        vectors.add_(0.3 * vectors.std() * noise)
    return model.eval()


def verdicts(number: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each case with its verdict, for one patch."""
    model, tokenizer = patched(number), load_lab_tokenizer()
    own, later = (record_probe(model, tokenizer, folder, stacks={name: [name]}) for name in ("own", "later"))
    alone, both = candidates_of(own), candidates_of(own, [later])
    prompts = [row.prompt for row in own.rows["completions"]]

    def answers(patch: str, bits: int | None = None) -> list[tuple[int, Seen]]:
        names = patch if patch == "__base__" else (patch,)
        with torch.no_grad(), Rounded(bits) if bits else contextlib.nullcontext():
            found = [next_tokens_of(model, tokenizer, tokenizer(prompt)["input_ids"], names) for prompt in prompts]
        return list(enumerate(map(seen_of, found)))

    on, off, new, other = (answers(patch) for patch in ("own", "__base__", "later", "other"))
    stale = number % len(prompts)
    for case, asked, candidates in (
        ("on", on, alone), ("off", off, alone), ("later version, its probe given", new, both),
        ("later version, unknown", new, alone), ("another patch, unknown", other, alone),
        ("1 of 20 answers without the patch", [*on[:stale], off[stale], *on[stale + 1 :]], alone),
        ("1 of 20 answers of the later version, its probe given", [*on[:stale], new[stale], *on[stale + 1 :]], both),
        ("half of the answers without the patch", on[:10] + off[10:], alone),
    ):  # fmt: skip
        yield case, verdict_on(candidates, asked).verdict
    for bits in (16, 8, 4):
        for case, patch in (("on", "own"), ("off", "__base__")):
            yield f"{case}, {bits} bits", verdict_on(alone, answers(patch, bits), bits=bits).verdict
    for case, asked in (("on", on), ("off", off)):
        greedy = [(place, Seen(greedy=seen.tokens[0][0])) for place, seen in asked]
        yield f"{case}, greedy tokens only", verdict_on(alone, greedy).verdict


@contextlib.contextmanager
def llama_cpp(file: Path) -> Iterator[str]:
    """Serve a GGUF with llama.cpp's own defaults, cache in half precision included; yield the address."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path, options.n_ctx, options.n_parallel = str(file), 2048, 2
    options.warmup, options.verbosity, options.n_gpu_layers = False, 0, 0
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(options)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


def engines(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what the probe says about real engines, with the distance to what is expected."""
    from policy_patch.export.gguf_export import export_gguf

    patches = [f"{name}={lab_patch_folder(risk)}" for name, risk in RISKS.items()]
    for kind in KINDS:
        export_gguf(patches, folder / kind, weight_type=kind)
        with llama_cpp(folder / kind / "model.gguf") as url:
            cases = [(f"chat, {name} asked for and expected", name, name, True) for name in RISKS]
            cases += [
                ("chat, the patch off", "tox", "off", True),
                ("chat, another patch", "tox", "bias", True),
                ("raw completions", "tox", "tox", False),
            ]
            for case, expected, asked, chat in cases:
                report = probe(
                    url, folder / kind, system=expected, chat=chat, bits=8 if kind == "Q8_0" else 16,
                    extra_body={"chat_template_kwargs": {"patch": asked}},
                )  # fmt: skip
                (found,) = report.addresses.values()
                yield f"llama.cpp {kind}: {case}", {"verdict": found.verdict, "distance": found.distance}


if __name__ == "__main__":
    main()
