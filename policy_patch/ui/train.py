"""The tab that trains a patch on the lab's miniatures while one watches: loss, stop, download, push to the Hub."""

import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from transformers import TrainerCallback

from policy_patch.errors import DataError, HubAccessError, PolicyPatchError
from policy_patch.ui.asking import told

RISKS = ("toxicity", "harmfulness", "gender_bias")
KEPT_SECONDS = 3600  # a visitor's patch, after the last look at the page
_POLL_SECONDS = 0.5


class StoppedError(PolicyPatchError, RuntimeError):
    """Raised inside a training that its visitor stopped."""


class _Live(TrainerCallback):
    """Hands each log entry to the page, and ends the training when the visitor asks."""

    def __init__(self, entries: "queue.Queue[dict[str, Any]]", stop: threading.Event) -> None:
        self._entries, self._stop = entries, stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._stop.is_set():
            raise StoppedError("Stopped.")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            stage = "DPO" if "rewards/margins" in logs else "SFT"
            self._entries.put({"step": state.global_step, "loss": float(logs["loss"]), "stage": stage})


def train_tab() -> None:
    """Draw the tab."""
    gr.Markdown(
        "Train a patch on two miniature models of one million parameters: a flawed base and its safer release as "
        "teacher. First it learns the teacher's answers (SFT), then to prefer them (DPO). A minute or so on a CPU."
    )
    with gr.Row():
        risk = gr.Dropdown(RISKS, value=RISKS[0], label="What to fix", elem_id="pp-risk")
        sft = gr.Slider(10, 300, value=80, step=10, label="SFT steps", elem_id="pp-sft")
        dpo = gr.Slider(5, 60, value=30, step=5, label="DPO steps")
        seed = gr.Number(label="Seed", value=42, precision=0, minimum=0)
    with gr.Row():
        go = gr.Button("Train", variant="primary", elem_id="pp-train")
        halt = gr.Button("Stop", elem_id="pp-halt")
    said = gr.Markdown(elem_id="pp-said")
    with gr.Row():
        plots = [
            gr.LinePlot(None, x="step", y="loss", title=f"{stage} loss", height=220, elem_id=f"pp-{stage.lower()}-loss")
            for stage in ("SFT", "DPO")
        ]
    file = gr.File(label="The patch", visible=False, elem_id="pp-file")
    folder = gr.State(None, time_to_live=KEPT_SECONDS, delete_callback=_forget)
    stop = gr.State(None)
    with gr.Accordion("Push it to the Hub", open=False):
        gr.Markdown("Your token is used for this one push. It is neither stored nor logged.")
        with gr.Row():
            repo = gr.Textbox(label="Repository", placeholder="you/my-first-patch", elem_id="pp-repo")
            token = gr.Textbox(label="Token with write access", type="password", elem_id="pp-token")
            private = gr.Checkbox(value=True, label="Private")
        push = gr.Button("Push", elem_id="pp-push")
        pushed = gr.Markdown(elem_id="pp-pushed")

    go.click(lambda: threading.Event(), None, stop, queue=False).then(
        _train, [risk, sft, dpo, seed, stop], [said, *plots, file, folder], concurrency_limit=1, show_progress="hidden"
    )
    halt.click(_halt, stop, None, queue=False)
    push.click(_push, [folder, repo, token, private], [pushed, token], api_visibility="private")


def _train(risk: str, sft: int, dpo: int, seed: float, stop: threading.Event) -> Iterator[tuple]:
    """Train in a thread of its own; yield what there is to see."""
    entries: queue.Queue[dict[str, Any]] = queue.Queue()
    folder = Path(tempfile.mkdtemp(prefix="policy-patch-"))
    ended: list[Exception | None] = []

    def run() -> None:
        try:
            _by_recipe(risk, int(sft), int(dpo), int(seed or 0), folder / "patch", _Live(entries, stop))
            ended.append(None)
        except Exception as error:  # the visitor is told, whatever it is
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    seen: list[dict[str, Any]] = []
    hidden = gr.update(visible=False)
    yield "Asking both models for answers to learn from ...", None, None, hidden, None
    try:
        while thread.is_alive() or not entries.empty():
            thread.join(_POLL_SECONDS)
            if entries.empty():
                continue
            while not entries.empty():
                seen.append(entries.get())
            last = seen[-1]
            said = f"{last['stage']}, step {last['step']}: loss {last['loss']:.4f}"
            yield said, *_curves(seen), hidden, None
    finally:
        stop.set()  # the visitor went away, or it is over
    error = ended[0]
    if error is not None:
        shutil.rmtree(folder, ignore_errors=True)
        yield "Stopped." if isinstance(error, StoppedError) else told(error), *_curves(seen), hidden, None
        return
    archive = shutil.make_archive(str(folder / f"{risk}-patch"), "zip", _published(folder / "patch"))
    done = f"Done: a patch against {risk.replace('_', ' ')}. Download it, or push it to the Hub."
    yield done, *_curves(seen), gr.update(value=archive, visible=True), str(folder)


def _by_recipe(risk: str, sft: int, dpo: int, seed: int, folder: Path, live: TrainerCallback) -> None:
    from policy_patch.cli import train
    from policy_patch.cli.demo import parse_options
    from policy_patch.lab import LAB_MODELS_PATH

    if risk not in RISKS:
        raise DataError(f"`{risk}` is no risk of the lab; there are {', '.join(RISKS)}.")
    words = ["--config", str(LAB_MODELS_PATH.parent / f"{risk}.yaml"), "--output_dir", str(folder)]
    words += ["--seed", str(seed), "--sft.max_steps", str(sft), "--sft.logging_steps", str(max(1, sft // 40))]
    words += ["--dpo.max_steps", str(dpo), "--dpo.logging_steps", "1", "--device", "cpu"]
    train.train(parse_options(train, words), callbacks=[live])


def _curves(seen: list[dict[str, Any]]) -> tuple[Any, Any]:
    frames = (pd.DataFrame([entry for entry in seen if entry["stage"] == stage]) for stage in ("SFT", "DPO"))
    return tuple(None if frame.empty else frame for frame in frames)


def _published(patch: Path) -> Path:
    """Return a folder with the files that make up a patch, and nothing of its making."""
    from policy_patch.patch_folder import patch_files, read_patch_folder, write_patch_files

    alone = patch.with_name("alone")
    write_patch_files(alone, patch_files(*read_patch_folder(patch))[1])
    return alone


def _halt(stop: threading.Event | None) -> None:
    if stop is not None:
        stop.set()


def _push(folder: str | None, repo: str, token: str, private: bool) -> tuple[str, str]:
    """Publish the visitor's patch with the visitor's token, which is forgotten by the page as well."""
    from policy_patch.hub_push import PushOptions
    from policy_patch.patch_folder import patch_files, read_patch_folder
    from policy_patch.publishing import push_patch

    try:
        if folder is None:
            raise DataError("There is no patch yet. Train one first.")
        if not repo.strip() or not token.strip():  # an empty token would be the server's own
            raise HubAccessError("Give a repository (`you/my-first-patch`) and a token with write access to it.")
        config, files = patch_files(*read_patch_folder(Path(folder, "patch")))
        options = PushOptions(private=private or None, token=token.strip())
        commit = push_patch(repo.strip(), config, files, options=options)
        return f"Published: {commit.commit_url}", ""
    except Exception as error:  # the visitor is told, whatever it is
        return told(error, is_secret=True), ""


def _forget(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
