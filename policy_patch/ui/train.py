"""The tab that trains a patch on the lab's miniatures: live loss, stop, download, push to the Hub.

The training itself is in `training_run.py`. `line.py` and `visitors.py` decide who may train and for how long.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_patch.errors import DataError, HubAccessError
from policy_patch.extra import needs_extra
from policy_patch.patch.folder import patch_files, read_patch_folder
from policy_patch.ui.asking import number_of, seed_of, told
from policy_patch.ui.line import Line
from policy_patch.ui.looks import TO_THE_NOTE
from policy_patch.ui.notes import Notes, field
from policy_patch.ui.served import Served
from policy_patch.ui.sources import LAB_RISKS, wanted_patch
from policy_patch.ui.training_run import PUBLISHED, LabRecipe, Run, lab_recipe
from policy_patch.ui.visitors import StoppedError, Watch

with needs_extra("demo", "The page"):
    import gradio as gr
    import pandas as pd

MOST_SECONDS = 1800.0  # for a training and the wait for it
MOST_SFT_STEPS, MOST_DPO_STEPS = 1200, 160  # the longest recipe of the lab has as many
_MOST_IN_LINE = 5
_POLL_SECONDS = 0.5
_TOKEN = re.compile(r"[!-~]{1,300}", re.ASCII)


@dataclass(frozen=True)
class TrainTab:
    """The parts of the tab that the page connects with the other tabs.

    Args:
        trained (`gr.State`):
            The folder of the visitor's last patch, or None. It is never sent to the browser.
        to_compare, to_measure (`gr.Button`):
            The buttons that take the patch to another tab.
    """

    trained: gr.State
    to_compare: gr.Button
    to_measure: gr.Button
    notes: Notes


def train_tab(served: Served) -> TrainTab:
    """Draw the tab and return its parts that the page connects with the other tabs."""
    gr.Markdown(
        "Train a patch on two miniature models of one million parameters: a flawed base, and its safer release as "
        "teacher. The patch first learns the teacher's answers (SFT), then to prefer them (DPO). The numbers of steps "
        "are those of the recipe that made the lab's own patch. On a CPU a hundred steps take about a minute."
    )
    notes, first = Notes("train"), lab_recipe(LAB_RISKS[0])
    risk, sft, dpo, _ = settings = _settings(notes, first)
    with gr.Row():
        go = gr.Button("Train", variant="primary", elem_id="pp-train")
        stop = gr.Button("Stop", elem_id="pp-halt")
    notes.below("train")
    said = gr.Markdown(elem_id="pp-said")
    with gr.Row(visible=False, elem_id="pp-use") as use:
        to_compare = gr.Button("Compare it with the base", elem_id="pp-to-compare")
        to_measure = gr.Button("Measure it", elem_id="pp-to-measure")
    notes.below("use")
    with gr.Row():
        plots = [
            gr.LinePlot(
                None, x="step", y="loss", title=f"{stage} loss", height=220, min_width=300, visible=False,
                elem_id=f"pp-{stage.lower()}-loss",
            )
            for stage in ("SFT", "DPO")
        ]  # fmt: skip
    file = gr.File(label="The patch", visible=False, elem_id="pp-file")
    folder = gr.State(None)
    line = Line("training", _MOST_IN_LINE)

    def train(risk: str, sft: float, dpo: float, seed: float, last: str | None, request: gr.Request) -> Iterator[list]:
        tab = _Tab(served, line, notes)
        yield from tab.train((risk, sft, dpo, seed), last, request.session_hash or "")

    def stop_training(request: gr.Request) -> None:
        line.stop(request.session_hash or "")

    def steps_for(risk: str) -> list[Any]:
        found = lab_recipe(risk) if risk in LAB_RISKS else first
        return [found.sft_steps, found.dpo_steps]

    # The line decides who may train, not Gradio's queue: in that queue one visitor could wait many times.
    go.click(
        train, [*settings, folder], [said, *plots, file, folder, use, *notes.outputs],
        concurrency_limit=None, show_progress="hidden", api_visibility="private",
    ).then(None, js=TO_THE_NOTE)  # fmt: skip
    risk.input(steps_for, risk, [sft, dpo], api_visibility="private", show_progress="hidden")
    stop.click(stop_training, None, None, api_visibility="private", show_progress="hidden")
    _push_form(served, folder)
    return TrainTab(folder, to_compare, to_measure, notes)


def _settings(notes: Notes, first: LabRecipe) -> list[Any]:
    """Draw risk, steps and seed, each with its note, and return them in the order in which `train` takes them."""
    with gr.Row():
        with gr.Column(min_width=160):
            risk = gr.Dropdown(LAB_RISKS, value=LAB_RISKS[0], label="What to fix", elem_id="pp-risk")
            notes.below("risk")
        with gr.Column(min_width=160):
            sft = gr.Slider(10, MOST_SFT_STEPS, value=first.sft_steps, step=10, label="SFT steps", elem_id="pp-sft")
            notes.below("sft")
        with gr.Column(min_width=160):
            dpo = gr.Slider(5, MOST_DPO_STEPS, value=first.dpo_steps, step=5, label="DPO steps", elem_id="pp-dpo")
            notes.below("dpo")
        with gr.Column(min_width=160):
            seed = gr.Number(
                label="Seed", info="The same seed gives the same patch.", value=first.seed, elem_id="pp-train-seed"
            )
            notes.below("seed")
    return [risk, sft, dpo, seed]


def _push_form(served: Served, folder: gr.State) -> None:
    """Draw the form that publishes the patch in `folder`."""
    notes = Notes("push")
    with gr.Accordion("Push it to the Hub", open=False):
        gr.Markdown("Your token is used for this one push. It is neither stored nor logged.")
        with gr.Row():
            with gr.Column(min_width=260):
                repo = gr.Textbox(label="Repository", placeholder="you/my-first-patch", elem_id="pp-repo")
                notes.below("repo")
            with gr.Column(min_width=260):
                token = gr.Textbox(label="Token with write access", type="password", elem_id="pp-token")
                notes.below("token")
            private = gr.Checkbox(value=True, label="Private", min_width=100)
        push = gr.Button("Push", elem_id="pp-push")
        notes.below("push")
        pushed = gr.Markdown(elem_id="pp-pushed")

    def push_(folder: str | None, repo: str, token: str, private: bool, request: gr.Request) -> list[Any]:
        try:
            with served.visitors.working(request.session_hash, "a push"):
                return [published(folder, repo, token, private), "", *notes.none()]
        except Exception as error:  # any error is shown to the visitor
            return ["", "", *notes.about(error, secret=token.strip() if isinstance(token, str) else "")]

    push.click(
        push_, [folder, repo, token, private], [pushed, token, *notes.outputs], api_name="push",
        api_visibility="private",
    ).then(None, js=TO_THE_NOTE)  # fmt: skip


class _Tab:
    """Runs one visitor's training and yields the values of the tab's outputs."""

    def __init__(self, served: Served, line: Line, notes: Notes) -> None:
        self._served, self._line, self._notes = served, line, notes

    def train(self, asked: tuple, last: str | None, visitor: str) -> Iterator[list[Any]]:
        """Train in a separate thread, and yield the values of the tab's outputs."""
        watch = Watch(self._served.visitors, visitor, MOST_SECONDS)
        try:
            settings = _checked(*asked)
            place = self._line.join(visitor, watch)
        except Exception as error:  # any error is shown to the visitor
            yield [gr.update(), gr.update(), gr.update(), gr.update(), last, gr.update(), *self._notes.about(error)]
            return
        run = Run(self._served, place, settings)
        seen: list[dict[str, Any]] = []
        try:
            while place.before:
                yield self._running(f"Waiting for {place.before} other visitors ...", seen, last)
                time.sleep(_POLL_SECONDS)
                watch.check()
            run.start()
            yield self._running("Asking both models for answers to learn from ...", seen, last)
            while run.goes_on():
                if new := run.entries():
                    seen += new
                    stage, step, loss = (seen[-1][name] for name in ("stage", "step", "loss"))
                    said = f"{stage}, step {step} of {settings[1 if stage == 'SFT' else 2]}: loss {loss:.4f}"
                    yield self._running(said, seen, last)
            archive = run.archive()
        except StoppedError as error:
            yield self._running(told(error), seen, last)
            return
        except Exception as error:  # any error is shown to the visitor
            yield ["", *_curves(seen), gr.update(visible=False), last, gr.update(), *self._notes.about(error)]
            return
        finally:
            run.end()  # the training is over, or the visitor left
        if last is not None:
            self._served.scratch.remove(Path(last))
        shown = gr.update(value=str(archive), visible=True)
        fits = self._served.base == "lab:base"
        yield [
            f"Done: a patch against {settings[0].replace('_', ' ')}. {_what_next(self._served.base)}", *_curves(seen),
            shown, str(archive.parent), gr.update(visible=fits), *self._notes.none(),
        ]  # fmt: skip

    def _running(self, said: str, seen: list[dict[str, Any]], last: str | None) -> list[Any]:
        file, use = gr.update(visible=False), gr.update(visible=False)
        return [said, *_curves(seen), file, last, use, *self._notes.none()]


def _what_next(base: str) -> str:
    if base == "lab:base":
        return "Compare or measure it here, download it, or push it to the Hub."
    return f"It is for `lab:base`, and this page shows `{base}`: download it, or push it to the Hub."


def trained_patch(folder: str | None) -> tuple[Path, str]:
    """Return the folder with the two files of a visitor's last patch, and the risk that it lowers.

    Args:
        folder (`str`, *optional*):
            The value of the tab's `trained`.

    Raises:
        DataError: nothing was trained, or the patch was removed.
    """
    if folder is None:
        raise DataError("There is no patch yet. Train one first.")
    alone = Path(folder, PUBLISHED)
    if not alone.is_dir():
        raise DataError("The patch was removed from the page a while after its training. Train it again.")
    return alone, str(read_patch_folder(alone)[0].risk)


def _checked(risk: Any, sft: Any, dpo: Any, seed: Any) -> tuple[str, int, int, int]:
    with field("risk"):
        if risk not in LAB_RISKS:
            raise DataError(f"`{str(risk)[:40]}` is not a risk of the lab; choose one of {', '.join(LAB_RISKS)}.")
    with field("sft"):
        sft = number_of(sft, "SFT steps", 10, MOST_SFT_STEPS)
    with field("dpo"):
        dpo = number_of(dpo, "DPO steps", 5, MOST_DPO_STEPS)
    with field("seed"):
        return risk, int(sft), int(dpo), seed_of(seed)


def _curves(seen: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Return the updates of the two plots. A plot without a point is not shown."""
    frames = (pd.DataFrame([entry for entry in seen if entry["stage"] == stage]) for stage in ("SFT", "DPO"))
    return tuple(gr.update(value=None if frame.empty else frame, visible=not frame.empty) for frame in frames)


def published(folder: str | None, repo: str, token: str, private: bool) -> str:
    """Publish the visitor's patch with the visitor's token, and return the message for the visitor.

    Raises:
        FieldError: the repository or the token is wrong.
        DataError: there is no patch.
        ConfigError, GateError, SignatureError, PublishConflictError, HubError: see [`push_patch`].
    """
    from policy_patch.hub.publishing import push_patch
    from policy_patch.hub.push import PushOptions

    repo, token = (text.strip() if isinstance(text, str) else "" for text in (repo, token))
    alone, _ = trained_patch(folder)
    with field("repo"):
        if not repo:
            raise HubAccessError("Give a repository, like `you/my-first-patch`.")
        if wanted_patch(repo).repo_id != repo:
            raise HubAccessError("Give the repository alone, like `you/my-first-patch`.")
    with field("token"):
        if not token:  # with an empty token the Hub's client would use the server's own
            raise HubAccessError("Give a token with write access to the repository.")
        if not _TOKEN.fullmatch(token):
            raise HubAccessError("The token contains characters that no token has. Copy it again.")
    config, files = patch_files(*read_patch_folder(alone))
    options = PushOptions(private=bool(private) or None, token=token)
    return f"Published: {push_patch(repo, config, files, options=options).commit_url}"
