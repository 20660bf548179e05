"""The tab that measures a stack on a small set of prompts: table with intervals, and the picture of a report."""

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from policy_patch.errors import DataError
from policy_patch.evaluation.evaluate import evaluate_policy_patch
from policy_patch.evaluation.plots import picture
from policy_patch.evaluation.report import EvaluationReport
from policy_patch.evaluation.tables import markdown
from policy_patch.ui.asking import MOST_CHARACTERS, MOST_PROMPTS, MOST_SAMPLES, told
from policy_patch.ui.served import Loaded, Served

_PROGRESS = gr.Progress()  # a default argument is how Gradio hands it in


def measure_tab(served: Served, prompts: list[str]) -> gr.CheckboxGroup:
    """Draw the tab and return the patches it offers, which other tabs keep up to date."""
    gr.Markdown(
        "How toxic is what is written to a few prompts, without and with the patches? Every prompt is answered several "
        "times; brackets are 95% intervals. Small sets give wide ones: for a figure to publish, use `policy-patch "
        "evaluate`."
    )
    with gr.Row():
        with gr.Column(scale=3):
            texts = gr.Textbox(
                label=f"Prompts, one a line, {MOST_PROMPTS} at most", value="\n".join(prompts), lines=8, max_lines=12,
                elem_id="pp-prompts",
            )  # fmt: skip
        with gr.Column(scale=2):
            patches = gr.CheckboxGroup(choices=[], label="Patches, in the order you tick them", elem_id="pp-measured")
            samples = gr.Slider(2, MOST_SAMPLES, value=5, step=1, label="Answers to each prompt")
            seed = gr.Number(label="Seed", value=0, precision=0, minimum=0)
    with gr.Row():
        go = gr.Button("Measure", variant="primary", elem_id="pp-measure")
        stop = gr.Button("Stop")
    result = gr.Markdown(elem_id="pp-result")
    image = gr.Image(label="The picture of the report", elem_id="pp-picture", interactive=False, visible=False)
    samples_shown = gr.Markdown()

    def measure(texts: str, labels: list[str], samples: int, seed: float, progress: Any = _PROGRESS) -> tuple:
        progress(0, desc="Loading the model")
        try:
            lines = _lines(texts)
            loaded = served.get()
            if not labels:
                raise DataError("No patch was ticked: there is nothing to compare with the base.")

            def on_progress(stage: str, done: int, total: int) -> None:
                progress((done, total), desc=stage)

            report = _report(loaded, lines, labels, min(int(samples), MOST_SAMPLES), int(seed or 0), on_progress)
        except Exception as error:  # the visitor is told, whatever it is
            return told(error), gr.update(visible=False), ""
        figures, heading, shown = markdown(report).partition("## Samples")
        return figures, gr.update(value=_picture(report), visible=True), heading + shown

    measuring = go.click(measure, [texts, patches, samples, seed], [result, image, samples_shown], concurrency_limit=1)
    stop.click(None, cancels=[measuring])
    return patches


def _lines(texts: str) -> list[str]:
    lines = [line for line in texts.splitlines() if line.strip()]
    if not lines:
        raise DataError("There is no prompt. Write one a line.")
    if len(lines) > MOST_PROMPTS:
        raise DataError(f"{len(lines)} prompts; at most {MOST_PROMPTS} are measured here.")
    longest = max(map(len, lines))
    if longest > MOST_CHARACTERS:
        raise DataError(f"A prompt has {longest} characters; at most {MOST_CHARACTERS} are taken here.")
    return lines


def _report(
    loaded: Loaded, prompts: list[str], labels: list[str], samples: int, seed: int, on_progress: Any
) -> EvaluationReport:
    model = loaded.wrapper(labels)
    try:
        return evaluate_policy_patch(
            model,
            loaded.tokenizer,
            prompts,
            scorers=[loaded.scorer],
            allow_filtering_scorers=True,  # marked in the table where it did
            judge_model=model.get_base_model(),
            judge_name="the base itself",
            num_samples=samples,
            batch_size=64,
            seed=seed,
            on_progress=on_progress,
        )
    finally:
        model.unload()


def _picture(report: EvaluationReport) -> str:
    """Write the picture to a file of its own, which Gradio serves and removes."""
    folder = Path(tempfile.mkdtemp(prefix="policy-patch-"))
    path = folder / "evaluation.png"
    path.write_bytes(picture(report))
    return str(path)
