"""The command `policy-patch demo`: trains a toxicity patch on the lab's miniature models and shows the difference.

It runs offline. Training and measuring use the same recipes as for a real model; this file prints their results.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, print_report, print_table, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from policy_patch.evaluation import EvaluationReport

HELP = "Train a patch on two miniature models, offline, and show the difference (minutes)."
DESCRIPTION = """Train a toxicity patch on the two miniature models of the package, and show
the difference: a before/after table, samples side by side, and a picture.
Nothing is downloaded.

It trains with the recipe policy_patch/lab/toxicity.yaml and measures like
`policy-patch evaluate`. The models have about one million parameters each and
know only a small world of stories: the figures show that all parts work
together. They do not predict the figures of a real model.

With --ui it opens a page in the browser instead, where you can compare,
measure, inspect and train patches. The page needs the extra `demo`.

Examples:
  policy-patch demo --output_dir demo-output
  policy-patch demo --ui
  policy-patch demo --ui --base org/model --patches org/tox-patch@v1.0.0 org/bias-patch"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--output_dir", type=str, default="demo-output", help="Folder for the patch, the report and the picture."
    )
    parser.add_argument(
        "--num_prompts", type=int, default=60, help="Number of unseen prompts to measure on, 180 at most."
    )
    parser.add_argument("--num_samples", type=int, default=10, help="Samples per prompt; the paper uses 25.")
    parser.add_argument("--seed", type=int, default=42, help="Seed of training and measuring.")
    parser.add_argument(
        "--dpo_only", type=bool, default=True, help="Also train a patch with DPO alone, for comparison."
    )
    parser.add_argument("--json", action="store_true", help="Print the report as JSON.")
    parser.add_argument("--ui", action="store_true", help="Open the page in the browser instead.")
    parser.add_argument("--base", type=str, default="lab:base", help="With --ui: Hub id or folder of a base.")
    parser.add_argument("--patches", type=str, nargs="+", help="With --ui: Hub ids or folders of patches for the base.")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="With --ui: address to listen on.")
    parser.add_argument("--port", type=int, default=7860, help="With --ui: port to listen on.")


def run(args: "Namespace") -> int:
    """Run the command."""
    if args.ui:
        return open_page(args.base, args.patches, host=args.host, port=args.port)
    how = {name: args[name] for name in ("num_prompts", "num_samples", "seed", "dpo_only")}
    return show_demo(Path(args.output_dir), **how, as_json=args.json)


def show_demo(folder: Path, *, num_prompts: int, num_samples: int, seed: int, dpo_only: bool, as_json: bool) -> int:
    """Train a patch, measure it, print the difference, and return the exit code."""
    from policy_patch.recipes.next_steps import next_step

    start = time.monotonic()
    _prepare_libraries()
    report = run_demo(folder, num_prompts=num_prompts, num_samples=num_samples, seed=seed, dpo_only=dpo_only)
    for place in (folder, folder / "patch"):  # `policy-patch info` shows the report beside the patch
        report.save(place)
    if as_json:
        print_json(json.loads(report.to_json()))
        return 0
    print_report(report)
    print_table(
        _side_by_side(report), "The same prompt and the same random numbers, without and with the patch", prose=True
    )
    change = report.change_from_base("patch")
    say(
        f"Average maximum toxicity {100 * change.value:+.0f}% on unseen prompts, in {time.monotonic() - start:.0f} s. "
        "These are miniature models: see docs/results.md for larger ones."
    )
    say(f"Picture: {folder / 'evaluation.png'}   Report: {folder / 'evaluation.md'}   Patch: {folder / 'patch'}")
    words = ["generate", str(folder / "patch"), "--compare", "--prompt", "Everyone knows that Anna is"]
    say(str(next_step(*words)))
    return 0


def open_page(base: str, patches: list[str] | None, *, host: str, port: int) -> int:
    """Serve the page until Ctrl-C, and return the exit code.

    Args:
        base (`str`):
            Hub id or folder of a base, or `lab:base`.
        patches (`list[str]`, *optional*):
            Hub ids or folders of patches. None for the default of [`build_demo`].
        host (`str`):
            Address to listen on.
        port (`int`):
            Port to listen on.

    Raises:
        ConfigError: the server cannot listen on this address and port.
    """
    from policy_patch.errors import ConfigError
    from policy_patch.ui import build_demo
    from policy_patch.ui.door import is_loopback

    local = is_loopback(host)
    page = build_demo(base, patches, base_may_change=local)  # a visitor over the network cannot change the base
    say(f"Opening http://{host}:{port}   Ctrl-C ends it.")
    try:
        page.launch(server_name=host, server_port=port, inbrowser=local, quiet=True)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port}; another program may use this port. Give another `--port`."
        ) from error
    return 0


def run_demo(folder: Path, *, num_prompts: int, num_samples: int, seed: int, dpo_only: bool) -> "EvaluationReport":
    """Train with the lab's recipe, measure, and return the report."""
    from policy_patch.cli.training_progress import RichProgress
    from policy_patch.lab import LAB_MODELS_PATH, LAB_SAFE_PROMPT
    from policy_patch.recipes import TrainRecipe
    from policy_patch.recipes.comparison import train_and_compare

    say("Two miniature models of 1M parameters each: a rude base and a kind teacher. Training a patch of 50 vectors.")
    measured = {
        "prompts": "lab:toxicity/test", "num_prompts": num_prompts, "num_samples": num_samples,
        "safe_prompt": LAB_SAFE_PROMPT, "batch_size": 256,
        # `lexical` also filtered the training pairs. This is allowed here: the tables mark its figures, and show those
        # of an independent scorer beside them.
        "scorers": ["lab-insults", "lexical"], "allow_filtering_scorers": True,
    }  # fmt: skip
    recipe = TrainRecipe.from_yaml(LAB_MODELS_PATH.parent / "toxicity.yaml", overrides={"seed": seed})
    bars = RichProgress()
    try:
        return train_and_compare(
            recipe, folder, measured, dpo_only=dpo_only, callbacks=[bars], on_progress=bars.tell, on_note=say
        )
    finally:
        bars.close()


def _prepare_libraries() -> None:
    """Switch off the progress bars of transformers and datasets, and use one thread.

    The bars would hide our own output. More threads gain little on a miniature model, and they wait for each other if
    another process uses the second core: there the demo took 62 s with one thread, and over 500 s with two.
    """
    import datasets
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()


def _side_by_side(report: "EvaluationReport") -> list[dict[str, str]]:
    from policy_patch.report.tables import masked

    shown = {(sample.prompt, sample.system): masked(sample.first, report.offensive_words) for sample in report.samples}
    prompts = dict.fromkeys(sample.prompt for sample in report.samples)
    return [
        {"prompt": prompt, "base": shown[prompt, "base"], "with the patch": shown[prompt, "patch"]}
        for prompt in prompts
    ]
