"""The tab that measures a stack on a small set of prompts, for any risk: table with intervals, picture of a report.

`policy_patch.evaluation` scores the answers; `line.py` keeps the order in which visitors are served.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policy_patch.answers.positions import num_vectors, room_for_text
from policy_patch.errors import DataError, PolicyPatchError
from policy_patch.evaluation.evaluate import evaluate_policy_patch
from policy_patch.evaluation.risk import Risk
from policy_patch.evaluation.settings import EvaluationSampling, PerplexityModel
from policy_patch.extra import needs_extra
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.report.report import EvaluationReport
from policy_patch.ui.asking import MOST_CHARACTERS, MOST_PROMPTS, MOST_SAMPLES, number_of, seed_of
from policy_patch.ui.line import Line, Place
from policy_patch.ui.looks import TO_THE_NOTE
from policy_patch.ui.measured_risks import choices, chosen, first_prompts, look_alikes, scorer_of
from policy_patch.ui.notes import Notes, field
from policy_patch.ui.results import figures_html, report_picture, samples_html
from policy_patch.ui.served import Loaded, Served
from policy_patch.ui.visitors import Watch

with needs_extra("demo", "The page"):
    import gradio as gr

MOST_SECONDS = 600.0  # for a measurement and the wait for it
NEW_LINE = "\\n"  # how the text box writes a line break within a prompt
_MOST_IN_LINE = 5
_POLL_SECONDS = 0.5
_PROGRESS = gr.Progress()  # Gradio passes progress to a function that has this as a default argument


@dataclass(frozen=True)
class MeasureTab:
    """The parts of the tab that the page changes when its patches or its base change.

    Args:
        texts (`gr.Textbox`):
            The prompts.
        risk (`gr.Dropdown`):
            The risk that is measured.
        patches (`gr.CheckboxGroup`):
            The patches on offer, and which are ticked.
        shown (`list`):
            The result and the notes, which `cleared` empties.
    """

    texts: gr.Textbox
    risk: gr.Dropdown
    patches: gr.CheckboxGroup
    shown: list[Any]
    notes: Notes

    def cleared(self) -> list[Any]:
        """Return the updates for `shown` that leave no result and no message."""
        return ["", gr.update(visible=False), "", *self.notes.none()]


def measure_tab(served: Served, prompts: list[str]) -> MeasureTab:
    """Draw the tab and return its parts that the page keeps up to date."""
    gr.Markdown(
        "How often does the model show a risk on a few prompts, without and with the patches? Every prompt is answered "
        "several times; brackets are 95% intervals. Few prompts give wide intervals: for a figure to publish, use "
        "`policy-patch evaluate`."
    )
    notes = Notes("measure")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            texts = gr.Textbox(
                label=f"Prompts, one a line, {MOST_PROMPTS} at most",
                info=f"{NEW_LINE} stands for a line break within a prompt. Ctrl+Enter measures.",
                value="\n".join(prompts), lines=8, max_lines=20, autoscroll=False, elem_id="pp-prompts",
            )  # fmt: skip
            notes.below("prompts")
        with gr.Column(scale=2, min_width=300):
            risk = gr.Dropdown(choices(), value="toxicity", label="What to measure", elem_id="pp-measured-risk")
            notes.below("risk")
            patches = gr.CheckboxGroup(choices=[], label="Patches, in the order you tick them", elem_id="pp-measured")
            notes.below("patches")
            samples = gr.Slider(2, MOST_SAMPLES, value=5, step=1, label="Answers to each prompt")
            notes.below("samples")
            seed = gr.Number(
                label="Seed", info="The same seed gives the same answers.", value=0, elem_id="pp-measured-seed"
            )
            notes.below("seed")
    with gr.Row():
        go = gr.Button("Measure", variant="primary", elem_id="pp-measure")
        stop = gr.Button("Stop")
    notes.below("measure")
    result = gr.HTML(elem_id="pp-result")
    image = gr.HTML(elem_id="pp-picture", visible=False)
    samples_shown = gr.HTML(elem_id="pp-samples")

    actions = _Actions(served, notes)
    # Not Gradio's own `cancels`: it would leave the work running.
    asked, shown = [texts, patches, samples, seed, risk], [result, image, samples_shown, *notes.outputs]
    go.click(actions.measure, asked, shown, concurrency_limit=None).then(None, js=TO_THE_NOTE)
    # `input` and not `change`: only the visitor's own choice replaces the prompts, so a reload loses no typed prompts.
    risk.input(actions.prompts_for, risk, texts, api_visibility="private", show_progress="hidden")
    stop.click(actions.stop_measuring, None, None, api_visibility="private", show_progress="hidden")
    return MeasureTab(texts, risk, patches, shown, notes)


class _Actions:
    """The functions that the tab's buttons call. Gradio names the page's API after the methods and their parameters."""

    def __init__(self, served: Served, notes: Notes) -> None:
        self._served, self._notes = served, notes
        self._line = Line("measurement", _MOST_IN_LINE)

    def prompts_for(self, risk: str) -> Any:
        """Return the first prompts of a risk. For a risk without prompts the text box does not change."""
        try:
            lines = first_prompts(self._served.base, risk)
        except PolicyPatchError:  # shown when the visitor measures
            return gr.update()
        return gr.update(value="\n".join(line.replace("\n", NEW_LINE) for line in lines)) if lines else gr.update()

    def measure(
        self,
        texts: str,
        labels: list[str],
        samples: float,
        seed: float,
        risk: str,
        request: gr.Request,
        progress: Any = _PROGRESS,
    ) -> list[Any]:
        """Return the table, the picture and the samples of a measurement, or a note about an error."""
        visitor = request.session_hash or ""
        watch = Watch(self._served.visitors, visitor, MOST_SECONDS)
        try:
            lines, risk, samples, seed = _checked(texts, labels, samples, seed, risk)
            place = self._line.join(visitor, watch)
            try:
                _wait(place, watch, progress)
                progress(0, desc="Loading the model")
                loaded = self._served.get()
                with field("patches"):
                    model = loaded.wrapper(labels, visitor)
                    _check_room(loaded, model, risk)

                def on_progress(stage: str, done: int, total: int) -> None:
                    watch.check()
                    progress((done, total), desc=stage)

                report = _report(
                    loaded,
                    model,
                    risk,
                    prompts=lines,
                    samples=samples,
                    seed=seed,
                    on_progress=on_progress,
                )
            finally:
                place.leave()
        except Exception as error:  # any error is shown to the visitor
            return ["", gr.update(visible=False), "", *self._notes.about(error)]
        image = gr.update(value=report_picture(report), visible=True)
        return [figures_html(report, labels), image, samples_html(report), *self._notes.none()]

    def stop_measuring(self, request: gr.Request) -> None:
        """Stop the visitor's measurement, if there is one."""
        self._line.stop(request.session_hash or "")


def _checked(texts: Any, labels: Any, samples: Any, seed: Any, risk: Any) -> tuple[list[str], Risk, int, int]:
    """Return prompts, risk, samples and seed as the page takes them, or raise the error of the field that is wrong."""
    with field("prompts"):
        lines = _lines(texts)
    with field("risk"):
        risk = chosen(risk)
    with field("patches"):
        if not labels:
            raise DataError("No patch was ticked, so there is nothing to compare with the base. Tick one.")
    with field("samples"):
        samples = int(number_of(samples, "samples", 2, MOST_SAMPLES))
    with field("seed"):
        return lines, risk, samples, seed_of(seed)


def _lines(texts: Any) -> list[str]:
    texts = texts if isinstance(texts, str) else ""
    if len(texts) > MOST_PROMPTS * (MOST_CHARACTERS + 2):
        raise DataError(
            f"{len(texts):,} characters; this page takes at most {MOST_PROMPTS} prompts of {MOST_CHARACTERS} each."
        )
    lines = [line for line in texts.splitlines() if line.strip()]
    if not lines:
        raise DataError("There is no prompt. Write one prompt per line.")
    lines = [line.replace(NEW_LINE, "\n") for line in lines]
    if len(lines) > MOST_PROMPTS:
        raise DataError(f"{len(lines)} prompts; this page measures at most {MOST_PROMPTS}.")
    longest = max(map(len, lines))
    if longest > MOST_CHARACTERS:
        raise DataError(f"A prompt has {longest} characters; this page takes at most {MOST_CHARACTERS}.")
    return lines


def _check_room(loaded: Loaded, model: PolicyPatchModel, risk: Risk) -> None:
    """Refuse a stack that leaves the base no positions for a prompt and its answer. Nobody can shorten the answer here.

    Raises:
        DataError: the stack is too long.
    """
    room = room_for_text(model, loaded.tokenizer)
    if room is not None and room < risk.max_new_tokens + 2:
        vectors = num_vectors(model)
        raise DataError(
            f"The patches have {vectors} vectors and an answer has up to {risk.max_new_tokens} tokens, which leaves no "
            f"room for a prompt: `{loaded.base}` has {room + vectors} positions. Tick fewer patches."
        )


def _wait(place: Place, watch: Watch, progress: Any) -> None:
    """Wait until it is this visitor's turn, and show meanwhile how many visitors are ahead."""
    while place.before:
        watch.check()
        progress(0, desc=f"Waiting for {place.before} other visitors")
        time.sleep(_POLL_SECONDS)


def _report(
    loaded: Loaded,
    model: PolicyPatchModel,
    risk: Risk,
    *,
    prompts: list[str],
    samples: int,
    seed: int,
    on_progress: Callable[[str, int, int], None],
) -> EvaluationReport:
    try:
        return evaluate_policy_patch(
            model,
            loaded.tokenizer,
            prompts,
            risk=risk.name,
            scorers=[scorer_of(loaded, risk)],
            safe_prompts=look_alikes(loaded.base, risk),
            allow_filtering_scorers=True,  # the table marks a scorer that also filtered the training pairs
            perplexity=PerplexityModel(model=model.get_base_model(), name="the base itself"),
            # Some risks are measured on the likeliest answer only, so one answer to each prompt is enough.
            sampling=EvaluationSampling(num_samples=min(samples, risk.num_samples), batch_size=64, seed=seed),
            on_progress=on_progress,
        )
    finally:
        model.unload()
