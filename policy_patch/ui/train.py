"""The tab that trains a patch on the lab's miniatures: live loss, stop, download, push to the Hub.

The training itself is a recipe. `line.py` and `visitors.py` decide who may train and for how long.
"""

import queue
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from policy_patch.errors import DataError, HubAccessError
from policy_patch.extra import needs_extra
from policy_patch.ui.asking import number_of, seed_of, told
from policy_patch.ui.line import Line, Place
from policy_patch.ui.served import Served
from policy_patch.ui.sources import LAB_RISKS, wanted_patch
from policy_patch.ui.visitors import BusyError, Watch

with needs_extra("demo", "The page"):
    import gradio as gr
    import pandas as pd

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

MOST_SECONDS = 900.0  # for a training and the wait for it
MOST_SFT_STEPS, MOST_DPO_STEPS = 300, 60
_MOST_IN_LINE = 5
_POLL_SECONDS = 0.5
_TOKEN = re.compile(r"[!-~]{1,300}", re.ASCII)


class _Live(TrainerCallback):
    """Passes each log entry to the page, and ends the training when the visitor stops it or leaves."""

    def __init__(self, entries: "queue.Queue[dict[str, Any]]", watch: Watch) -> None:
        self._entries, self._watch = entries, watch

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Raise `StoppedError` if the visitor no longer waits. Called during sampling and after each step."""
        self._watch.check()

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            stage = "DPO" if "rewards/margins" in logs else "SFT"
            self._entries.put({"step": state.global_step, "loss": float(logs["loss"]), "stage": stage})


def train_tab(served: Served) -> None:
    """Draw the tab."""
    gr.Markdown(
        "Train a patch on two miniature models of one million parameters: a flawed base, and its safer release as "
        "teacher. The patch first learns the teacher's answers (SFT), then to prefer them (DPO). This takes about a "
        "minute on a CPU."
    )
    with gr.Row():
        risk = gr.Dropdown(LAB_RISKS, value=LAB_RISKS[0], label="What to fix", elem_id="pp-risk")
        sft = gr.Slider(10, MOST_SFT_STEPS, value=80, step=10, label="SFT steps", elem_id="pp-sft")
        dpo = gr.Slider(5, MOST_DPO_STEPS, value=30, step=5, label="DPO steps")
        seed = gr.Number(label="Seed", value=42, precision=0, minimum=0)
    with gr.Row():
        go = gr.Button("Train", variant="primary", elem_id="pp-train")
        stop = gr.Button("Stop", elem_id="pp-halt")
    said = gr.Markdown(elem_id="pp-said")
    with gr.Row():
        plots = [
            gr.LinePlot(None, x="step", y="loss", title=f"{stage} loss", height=220, elem_id=f"pp-{stage.lower()}-loss")
            for stage in ("SFT", "DPO")
        ]
    file = gr.File(label="The patch", visible=False, elem_id="pp-file")
    folder = gr.State(None)  # the folder of the visitor's last patch; never sent to the browser
    with gr.Accordion("Push it to the Hub", open=False):
        gr.Markdown("Your token is used for this one push. It is neither stored nor logged.")
        with gr.Row():
            repo = gr.Textbox(label="Repository", placeholder="you/my-first-patch", elem_id="pp-repo")
            token = gr.Textbox(label="Token with write access", type="password", elem_id="pp-token")
            private = gr.Checkbox(value=True, label="Private")
        push = gr.Button("Push", elem_id="pp-push")
        pushed = gr.Markdown(elem_id="pp-pushed")

    line = Line("training", _MOST_IN_LINE)

    def train(risk: str, sft: float, dpo: float, seed: float, last: str | None, request: gr.Request) -> Iterator[tuple]:
        yield from _train(served, line, (risk, sft, dpo, seed), last, request.session_hash or "")

    def stop_training(request: gr.Request) -> None:
        line.stop(request.session_hash or "")

    # The line decides who may train, not Gradio's queue: in that queue one visitor could wait many times.
    go.click(
        train, [risk, sft, dpo, seed, folder], [said, *plots, file, folder],
        concurrency_limit=None, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    stop.click(stop_training, None, None, api_visibility="private", show_progress="hidden")

    def push_(folder: str | None, repo: str, token: str, private: bool, request: gr.Request) -> tuple[str, str]:
        try:
            with served.visitors.working(request.session_hash, "a push"):
                return _push(folder, repo, token, private)
        except BusyError as error:
            return told(error), ""

    push.click(
        push_, [folder, repo, token, private], [pushed, token], api_name="push", api_visibility="private"
    )  # fmt: skip


def _train(served: Served, line: Line, asked: tuple, last: str | None, visitor: str) -> Iterator[tuple]:
    """Train in a separate thread, and yield the values of the tab's outputs."""
    hidden, kept = gr.update(visible=False), gr.update()
    watch = Watch(served.visitors, visitor, MOST_SECONDS)
    try:
        settings = _checked(*asked)
        place = line.join(visitor, watch)
    except Exception as error:  # any error is shown to the visitor
        yield told(error), kept, kept, kept, last
        return
    run = _Run(served, place, settings)
    seen: list[dict[str, Any]] = []
    try:
        while place.before:
            yield f"Waiting for {place.before} other visitors ...", None, None, hidden, last
            time.sleep(_POLL_SECONDS)
            watch.check()
        run.start()
        yield "Asking both models for answers to learn from ...", None, None, hidden, last
        while run.goes_on():
            if new := run.entries():
                seen += new
                said = f"{seen[-1]['stage']}, step {seen[-1]['step']}: loss {seen[-1]['loss']:.4f}"
                yield said, *_curves(seen), hidden, last
        archive = run.archive()
    except Exception as error:  # any error is shown to the visitor
        yield told(error), *_curves(seen), hidden, last
        return
    finally:
        run.end()  # the training is over, or the visitor left
    if last is not None:
        served.scratch.remove(Path(last))
    done = f"Done: a patch against {settings[0].replace('_', ' ')}. Download it, or push it to the Hub."
    yield done, *_curves(seen), gr.update(value=str(archive), visible=True), str(archive.parent)


def _checked(risk: Any, sft: Any, dpo: Any, seed: Any) -> tuple[str, int, int, int]:
    if risk not in LAB_RISKS:
        raise DataError(f"`{str(risk)[:40]}` is not a risk of the lab; choose one of {', '.join(LAB_RISKS)}.")
    sft, dpo = number_of(sft, "SFT steps", 10, MOST_SFT_STEPS), number_of(dpo, "DPO steps", 5, MOST_DPO_STEPS)
    return risk, int(sft), int(dpo), seed_of(seed)


class _Run:
    """One training in its own thread, and its folder. It gives its place in the line up when the thread ends."""

    def __init__(self, served: Served, place: Place, settings: tuple[str, int, int, int]) -> None:
        self._scratch, self._place, self._settings = served.scratch, place, settings
        self._entries: queue.Queue[dict[str, Any]] = queue.Queue()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._folder: Path | None = None
        self._error: Exception | None = None
        self._is_kept = self._is_left = self._has_ended = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the training."""
        self._folder = self._scratch.new(held=True)
        self._thread.start()

    def goes_on(self) -> bool:
        """Wait a moment, and return whether the training still runs or has unread entries."""
        self._thread.join(_POLL_SECONDS)
        return self._thread.is_alive() or not self._entries.empty()

    def entries(self) -> list[dict[str, Any]]:
        """Return the log entries since the last call."""
        return [self._entries.get() for _ in range(self._entries.qsize())]

    def archive(self) -> Path:
        """Return the trained patch as a zip archive, or raise the error that ended the training."""
        if self._error is not None:
            raise self._error
        folder = self._folder / "patch"
        archive = shutil.make_archive(str(self._folder / f"{self._settings[0]}-patch"), "zip", _published(folder))
        self._is_kept = True
        return Path(archive)

    def end(self) -> None:
        """Stop the training if it still runs. Its folder is removed when it has ended, unless it holds a patch."""
        self._place.watch.stop()
        if self._folder is None:  # the training never started
            self._place.leave()
        elif self._is_kept:
            self._scratch.release(self._folder)
        else:
            with self._lock:
                self._is_left, has_ended = True, self._has_ended
            if has_ended:
                self._scratch.remove(self._folder)

    def _train(self) -> None:
        try:
            _by_recipe(self._settings, self._folder / "patch", _Live(self._entries, self._place.watch))
        except Exception as error:  # any error is shown to the visitor
            self._error = error
        finally:
            with self._lock:
                self._has_ended, is_left = True, self._is_left
            if is_left:
                self._scratch.remove(self._folder)
            self._place.leave()


def _by_recipe(settings: tuple[str, int, int, int], folder: Path, live: _Live) -> None:
    from policy_patch.lab import LAB_MODELS_PATH
    from policy_patch.recipes import TrainRecipe

    risk, sft, dpo, seed = settings
    overrides = {
        "output_dir": str(folder), "seed": seed, "device": "cpu",
        "sft.max_steps": sft, "sft.logging_steps": max(1, sft // 40), "dpo.max_steps": dpo, "dpo.logging_steps": 1,
    }  # fmt: skip
    recipe = TrainRecipe.from_yaml(LAB_MODELS_PATH.parent / f"{risk}.yaml", overrides=overrides)
    recipe.run(callbacks=[live], on_progress=live.on_progress)


def _curves(seen: list[dict[str, Any]]) -> tuple[Any, Any]:
    frames = (pd.DataFrame([entry for entry in seen if entry["stage"] == stage]) for stage in ("SFT", "DPO"))
    return tuple(None if frame.empty else frame for frame in frames)


def _published(patch: Path) -> Path:
    """Return a folder with the files of a patch only, without checkpoints and other files of the training."""
    from policy_patch.patch.folder import patch_files, read_patch_folder, write_patch_files

    alone = patch.with_name("alone")
    write_patch_files(alone, patch_files(*read_patch_folder(patch))[1])
    return alone


def _push(folder: str | None, repo: str, token: str, private: bool) -> tuple[str, str]:
    """Publish the visitor's patch with the visitor's token, and clear the token on the page.

    Returns the message for the visitor, and the new content of the token field: always empty.
    """
    from policy_patch.hub.publishing import push_patch
    from policy_patch.hub.push import PushOptions
    from policy_patch.patch.folder import patch_files, read_patch_folder

    repo, token = (text.strip() if isinstance(text, str) else "" for text in (repo, token))
    try:
        if folder is None:
            raise DataError("There is no patch yet. Train one first.")
        if not Path(folder).is_dir():
            raise DataError("The patch was removed from the page a while after its training. Train it again.")
        if not repo or not token:  # with an empty token the Hub's client would use the server's own
            raise HubAccessError("Give a repository (`you/my-first-patch`) and a token with write access to it.")
        if not _TOKEN.fullmatch(token):
            raise HubAccessError("The token contains characters that no token has. Copy it again.")
        wanted = wanted_patch(repo)
        if wanted.repo_id != repo:
            raise HubAccessError("Give the repository alone, like `you/my-first-patch`.")
        config, files = patch_files(*read_patch_folder(Path(folder, "patch")))
        options = PushOptions(private=bool(private) or None, token=token)
        commit = push_patch(repo, config, files, options=options)
        return f"Published: {commit.commit_url}", ""
    except Exception as error:  # any error is shown to the visitor
        return told(error, is_secret=True).replace(token or "\0", "..."), ""
