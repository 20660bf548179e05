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
    told,
    told_to_page,
)
from policy_patch.ui.served import Loaded, Served
from policy_patch.ui.visitors import BusyError, Watch
from policy_patch.ui.words import answer_html, badge_html, stack_html

with needs_extra("demo", "The page"):
    import gradio as gr

MOST_SECONDS = 120.0  # for two answers
_MOST_OWN = 2  # prompts that one visitor may have answered at the same time
_ADDING_AT_ONCE = 4  # patches that are fetched at the same time, for all visitors together


def compare_tab(served: Served, prompts: list[str]) -> gr.CheckboxGroup:
    """Draw the tab and return its list of patches, which the page keeps up to date."""
    gr.Markdown("The base answers one prompt without and with your patches, with the same random numbers.")
    with gr.Row():
        with gr.Column(scale=3):
            prompt = gr.Textbox(label="Prompt", value=prompts[0], lines=2, max_lines=6, elem_id="pp-prompt")
            examples = gr.Dataset(components=[prompt], samples=[[one] for one in prompts], label="Try one")
        with gr.Column(scale=2):
            patches = gr.CheckboxGroup(
                choices=[], label="Patches, in the order you tick them", elem_id="pp-patches", interactive=True
            )
            order = gr.HTML(stack_html([], []), elem_id="pp-order")
            with gr.Row():
                source = gr.Textbox(
                    label="One more from the Hub", placeholder="org/tox-patch@v1.0.0", scale=3, elem_id="pp-source"
                )
                add = gr.Button("Add", scale=1, min_width=70, elem_id="pp-add")
    with gr.Accordion("Sampling", open=False), gr.Row():
        seed = gr.Number(label="Seed", value=0, precision=0, minimum=0)
        temperature = gr.Slider(0.1, 2.0, value=1.0, step=0.1, label="Temperature")
        top_p = gr.Slider(0.1, 1.0, value=0.9, step=0.05, label="Top-p")
        new_tokens = gr.Slider(1, MOST_NEW_TOKENS, value=40, step=1, label="New tokens")
    with gr.Row():
        go = gr.Button("Write", variant="primary", elem_id="pp-write")
        stop = gr.Button("Stop", elem_id="pp-stop")
        blur = gr.Checkbox(value=True, label="Blur offensive words", elem_id="pp-blur")
    with gr.Row(equal_height=True):
        base, patched = gr.HTML(elem_id="pp-base"), gr.HTML(elem_id="pp-patched")
    problem = gr.Markdown(elem_id="pp-problem", visible=False)

    actions = _Actions(served)
    # Not Gradio's own `Examples`: its calls skip the queue.
    examples.click(lambda row: row[0], examples, prompt, show_progress="hidden", api_visibility="private")
    patches.change(actions.stack_of, patches, order, show_progress="hidden", api_visibility="private")
    gr.on(
        [add.click, source.submit], actions.more, [source, patches], [patches, source, problem],
        concurrency_limit=_ADDING_AT_ONCE,
    )  # fmt: skip
    inputs = [prompt, patches, seed, temperature, top_p, new_tokens, blur]
    outputs = [base, patched, problem]
    writing = gr.on(
        [go.click, prompt.submit], actions.write, inputs, outputs, concurrency_limit=8, show_progress="hidden"
    )
    stop.click(None, cancels=[writing])
    return patches


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

    def __init__(self, served: Served) -> None:
        self._served = served

    def stack_of(self, labels: list[str], request: gr.Request) -> str:
        """Return HTML that shows the ticked patches in their order."""
        return told_to_page(lambda: _stack_html(self._served.get(), labels, request.session_hash))

    def write(
        self, prompt: str, labels: list[str], seed: float, temperature: float, top_p: float, new_tokens: float,
        blur: bool, request: gr.Request,
    ) -> Iterator[Any]:  # fmt: skip
        """Yield the two columns after each token, and the message about an error."""
        settings = {"seed": seed, "temperature": temperature, "top_p": top_p, "new_tokens": new_tokens}
        visitor = request.session_hash or ""
        try:
            with self._served.visitors.working(visitor, "writing", _MOST_OWN):
                yield from _write(self._served, _Asked(prompt, labels, settings, bool(blur), visitor))
        except BusyError as error:
            yield "", "", gr.update(value=told(error), visible=True)

    def more(self, source: str, chosen: list[str], request: gr.Request) -> tuple[Any, Any, Any]:
        """Fetch one more patch and tick it."""
        served = self._served
        try:
            with served.visitors.working(request.session_hash, "adding a patch"):
                label = served.add(source, request.session_hash)
            offered = list(served.get().offered(request.session_hash))
        except Exception as error:  # any error is shown to the visitor
            return gr.update(), gr.update(), gr.update(value=told(error), visible=True)
        chosen = [*(one for one in chosen or [] if one in offered and one != label), label]
        return gr.update(choices=offered, value=chosen), gr.update(value=""), gr.update(visible=False)


def _stack_html(loaded: Loaded, labels: list[str], visitor: str | None) -> str:
    names = [one.name for one in loaded.chosen(labels or [], visitor)]
    return stack_html(labels or [], [loaded.model.patch_config[name].num_virtual_tokens for name in names])


def _write(served: Served, asked: _Asked) -> Iterator[tuple[str, str, Any]]:
    """Yield the two columns after each token, and the message about an error."""
    wrong = gr.update(visible=False)
    try:
        prompt = prompt_of(asked.prompt)
        settings = _checked(asked.settings)
        if not served.is_loaded:
            yield "Loading the model ...", "", wrong
        loaded, labels = served.get(), asked.labels or []
        watch = Watch(served.visitors, asked.visitor, MOST_SECONDS)
        answers = stream_answers(
            loaded.model,
            loaded.tokenizer,
            prompt,
            ["__base__", loaded.stack(labels, asked.visitor)],
            max_prompt_tokens=MOST_PROMPT_TOKENS,
            **settings,
        )
        titles = ("Base", f"With {' + '.join(labels)}" if labels else "With no patch: the base again")
        for both in answers:
            yield *(_column(loaded, prompt, *each, asked.blur) for each in zip(titles, both)), wrong
            watch.check()
    except Exception as error:  # any error is shown to the visitor
        yield "", "", gr.update(value=told(error), visible=True)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "seed": seed_of(settings["seed"]),
        "temperature": number_of(settings["temperature"], "temperature", 0.1, 2.0),
        "top_p": number_of(settings["top_p"], "top_p", 0.1, 1.0),
        "max_new_tokens": int(number_of(settings["new_tokens"], "new_tokens", 1, MOST_NEW_TOKENS)),
    }


def _column(loaded: Loaded, prompt: str, title: str, answer: StreamedAnswer, blur: bool) -> str:
    score = loaded.scorer.score([answer.text])[0] if answer.text else None
    offensive = offensive_words(loaded.scorer, answer.text)
    facts = f"{answer.num_tokens} tokens"
    if answer.first_token_seconds is not None:
        facts += f" · first after {1000 * answer.first_token_seconds:.0f} ms · {answer.seconds:.2f} s"
    facts += " · done" if answer.finished else " · writing"
    return (
        f"<h3>{html.escape(title)}</h3>{answer_html(prompt, answer.text, offensive, blur=blur)}"
        f'<div class="pp-facts">{badge_html(score, loaded.scorer.name)} {facts}</div>'
    )
