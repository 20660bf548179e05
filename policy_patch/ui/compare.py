"""The tab that shows the answers to one prompt without and with patches, token by token.

Limits and error messages, which all tabs share, are in `asking.py`; the model and its patches are in `served.py`.
"""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policy_patch.answers.streaming import StreamedAnswer, stream_answers
from policy_patch.extra import needs_extra
from policy_patch.ui.asking import (
    MOST_NEW_TOKENS,
    MOST_PROMPT_TOKENS,
    number_of,
    offensive_words,
    prompt_of,
    seed_of,
    told_to_page,
)
from policy_patch.ui.looks import SAY_STOPPED, TO_THE_NOTE
from policy_patch.ui.notes import Notes, field
from policy_patch.ui.served import Loaded, Served
from policy_patch.ui.visitors import Watch
from policy_patch.ui.words import answer_html, badge_html, stack_html

with needs_extra("demo", "The page"):
    import gradio as gr

MOST_SECONDS = 120.0  # for two answers
BASE_TITLE = "Base, without a patch"
_MOST_OWN = 2  # prompts that one visitor may have answered at the same time
_ADDING_AT_ONCE = 4  # patches that are fetched at the same time, for all visitors together


@dataclass(frozen=True)
class CompareTab:
    """The parts of the tab that the page changes when its patches or its base change.

    Args:
        prompt (`gr.Textbox`):
            The prompt.
        examples (`gr.Dataset`):
            The prompts to try.
        patches (`gr.CheckboxGroup`):
            The patches on offer, and which are ticked.
        shown (`list`):
            The two answers and the notes, which `cleared` empties.
    """

    prompt: gr.Textbox
    examples: gr.Dataset
    patches: gr.CheckboxGroup
    shown: list[Any]
    notes: Notes

    def cleared(self) -> list[Any]:
        """Return the updates for `shown` that leave no answer and no message."""
        return ["", "", *self.notes.none()]


def compare_tab(served: Served, prompts: list[str]) -> CompareTab:
    """Draw the tab and return its parts that the page keeps up to date."""
    gr.Markdown("The base answers one prompt without and with your patches, with the same random numbers.")
    notes = Notes("write")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            prompt = gr.Textbox(
                label="Prompt", info="Ctrl+Enter writes.", value=prompts[0], lines=2, max_lines=6, elem_id="pp-prompt"
            )
            notes.below("prompt")
            examples = gr.Dataset(
                components=[prompt], samples=[[one] for one in prompts], sample_labels=prompts, label="Try one",
                elem_id="pp-examples",
            )  # fmt: skip  # the labels, because Gradio cuts the samples
        with gr.Column(scale=2, min_width=300):
            patches = gr.CheckboxGroup(
                choices=[], label="Patches, in the order you tick them", elem_id="pp-patches", interactive=True
            )
            notes.below("patches")
            order = gr.HTML(stack_html([], []), elem_id="pp-order")
            with gr.Row():
                source = gr.Textbox(
                    label="One more from the Hub", placeholder="org/tox-patch@v1.0.0", scale=3, min_width=200,
                    elem_id="pp-source",
                )  # fmt: skip
                add = gr.Button("Add", scale=1, min_width=70, elem_id="pp-add")
            notes.below("source")
    sampling = _sampling(notes)
    with gr.Row():
        go = gr.Button("Write", variant="primary", elem_id="pp-write")
        stop = gr.Button("Stop", elem_id="pp-stop")
        blur = gr.Checkbox(value=True, label="Blur offensive words", elem_id="pp-blur")
    notes.below("write")
    with gr.Row(equal_height=True):
        sides = []
        for side in ("base", "patched"):
            with gr.Column(min_width=300):  # below each other on a phone
                sides.append(gr.HTML(elem_id=f"pp-{side}"))

    actions = _Actions(served, notes)
    # Not Gradio's own `Examples`: its calls skip the queue.
    examples.click(lambda row: row[0], examples, prompt, show_progress="hidden", api_visibility="private")
    patches.change(actions.stack_of, patches, order, show_progress="hidden", api_visibility="private")
    adding = gr.on(
        [add.click, source.submit], actions.more, [source, patches], [patches, source, *notes.outputs],
        concurrency_limit=_ADDING_AT_ONCE,
    )  # fmt: skip
    shown = [*sides, *notes.outputs]
    writing = gr.on(
        [go.click, prompt.submit], actions.write, [prompt, patches, *sampling, blur], shown, concurrency_limit=8,
        show_progress="hidden", trigger_mode="always_last",
    )  # fmt: skip  # a click while the last answer ends is not lost
    stop.click(None, cancels=[writing])
    stop.click(None, js=SAY_STOPPED)
    for asked in (adding, writing):
        asked.then(None, js=TO_THE_NOTE)
    return CompareTab(prompt, examples, patches, shown, notes)


def _sampling(notes: Notes) -> list[Any]:
    """Draw the settings of sampling, each with its note, and return them in the order in which `write` takes them."""
    with gr.Accordion("Sampling", open=False, elem_id="pp-sampling") as fold, gr.Row():
        settings = []
        for name, make in (
            ("seed", lambda: gr.Number(label="Seed", info="The same seed gives the same answers.", value=0,
                                       elem_id="pp-seed")),
            ("temperature", lambda: gr.Slider(0.1, 2.0, value=1.0, step=0.1, label="Temperature")),
            ("top_p", lambda: gr.Slider(0.1, 1.0, value=0.9, step=0.05, label="Top-p")),
            ("new_tokens", lambda: gr.Slider(1, MOST_NEW_TOKENS, value=40, step=1, label="New tokens")),
        ):  # fmt: skip
            with gr.Column(min_width=160):
                settings.append(make())
                notes.below(name, fold=fold)
    return settings


@dataclass(frozen=True)
class _Asked:
    """A visitor's inputs as the page sent them. Nothing is checked yet."""

    prompt: str
    labels: list[str]
    settings: dict[str, Any]
    blur: bool
    visitor: str


class _Actions:
    """The functions that the tab's buttons call. Gradio names the page's API after the methods and their parameters."""

    def __init__(self, served: Served, notes: Notes) -> None:
        self._served, self._notes = served, notes

    def stack_of(self, labels: list[str], request: gr.Request) -> str:
        """Return HTML that shows the ticked patches in their order."""
        return told_to_page(lambda: _stack_html(self._served.get(), labels, request.session_hash))

    def write(
        self, prompt: str, labels: list[str], seed: float, temperature: float, top_p: float, new_tokens: float,
        blur: bool, request: gr.Request,
    ) -> Iterator[Any]:  # fmt: skip
        """Yield the two columns after each token, and the notes about an error."""
        settings = {"seed": seed, "temperature": temperature, "top_p": top_p, "new_tokens": new_tokens}
        visitor = request.session_hash or ""
        try:
            with self._served.visitors.working(visitor, "writing", _MOST_OWN):
                asked = _Asked(prompt, labels, settings, bool(blur), visitor)
                for both in _write(self._served, asked):
                    yield *both, *self._notes.none()
        except Exception as error:  # any error is shown to the visitor
            yield "", "", *self._notes.about(error)

    def more(self, source: str, chosen: list[str], request: gr.Request) -> list[Any]:
        """Fetch one more patch and tick it."""
        served = self._served
        try:
            with served.visitors.working(request.session_hash, "adding a patch"), field("source"):
                label = served.add(source, request.session_hash)
            offered = list(served.get().offered(request.session_hash))
        except Exception as error:  # any error is shown to the visitor
            return [gr.update(), gr.update(), *self._notes.about(error)]
        chosen = [*(one for one in chosen or [] if one in offered and one != label), label]
        return [gr.update(choices=offered, value=chosen), gr.update(value=""), *self._notes.none()]


def _stack_html(loaded: Loaded, labels: list[str], visitor: str | None) -> str:
    names = [one.name for one in loaded.chosen(labels or [], visitor)]
    return stack_html(labels or [], [loaded.model.patch_config[name].num_virtual_tokens for name in names])


def _write(served: Served, asked: _Asked) -> Iterator[tuple[str, str]]:
    """Yield the two columns after each token."""
    with field("prompt"):
        prompt = prompt_of(asked.prompt)
    settings = _checked(asked.settings)
    if not served.is_loaded:
        yield "Loading the model ...", ""
    loaded, labels = served.get(), asked.labels or []
    with field("patches"):
        stack = loaded.stack(labels, asked.visitor)
    watch = Watch(served.visitors, asked.visitor, MOST_SECONDS)
    with field("prompt"):  # the settings are checked above, so only the prompt can be wrong
        answers = stream_answers(
            loaded.model,
            loaded.tokenizer,
            prompt,
            ["__base__", stack],
            max_prompt_tokens=MOST_PROMPT_TOKENS,
            **settings,
        )
    for both in answers:
        yield tuple(_column(loaded, prompt, *each, asked.blur) for each in zip((BASE_TITLE, title_of(labels)), both))
        watch.check()


def title_of(labels: list[str]) -> str:
    """Return the title of an answer with these patches: the patches work against what their names say."""
    if not labels:
        return "With no patch: the base again"
    return f"With the patch {labels[0]}" if len(labels) == 1 else f"With the patches {', then '.join(labels)}"


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    limits = {"temperature": (0.1, 2.0), "top_p": (0.1, 1.0), "new_tokens": (1, MOST_NEW_TOKENS)}
    with field("seed"):
        checked: dict[str, Any] = {"seed": seed_of(settings["seed"])}
    for name, (least, most) in limits.items():
        with field(name):
            checked[name] = number_of(settings[name], name, least, most)
    checked["max_new_tokens"] = int(checked.pop("new_tokens"))
    return checked


def _column(loaded: Loaded, prompt: str, title: str, answer: StreamedAnswer, blur: bool) -> str:
    score = loaded.scorer.score([answer.text])[0] if answer.text else None
    offensive = offensive_words(loaded.scorer, answer.text)
    facts = f"{answer.num_tokens} tokens"
    if answer.first_token_seconds is not None:
        facts += f" · first after {1000 * answer.first_token_seconds:.0f} ms · {answer.seconds:.2f} s"
    facts += " · done" if answer.finished else " · writing"
    return (
        f'<h3 class="pp-title">{html.escape(title)}</h3>'
        f"{answer_html(prompt, answer.text, offensive, blur=blur)}"
        f'<div class="pp-facts">{badge_html(score, loaded.scorer.name)} {facts}</div>'
    )
