"""The tab that shows one prompt without and with patches, token by token."""

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from policy_patch.data.streaming import StreamedAnswer, stream_answers
from policy_patch.ui.asking import MOST_NEW_TOKENS, MOST_PROMPT_TOKENS, offensive_words, told, told_to_page
from policy_patch.ui.served import Loaded, Served
from policy_patch.ui.words import answer_html, badge_html, stack_html


def compare_tab(served: Served, prompts: list[str]) -> gr.CheckboxGroup:
    """Draw the tab and return the patches it offers, which other tabs keep up to date."""
    gr.Markdown("One prompt, the same random numbers: what the base writes, and what it writes behind your patches.")
    with gr.Row():
        with gr.Column(scale=3):
            prompt = gr.Textbox(label="Prompt", value=prompts[0], lines=2, max_lines=6, elem_id="pp-prompt")
            gr.Examples([[one] for one in prompts], [prompt], label="Try one")
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

    def stack_of(labels: list[str]) -> str:
        return told_to_page(lambda: _stack_html(served.get(), labels))

    def write(*asked: Any) -> Iterator[Any]:
        yield from _write(served, *asked)

    def more(source: str, chosen: list[str]) -> tuple[Any, Any, Any]:
        try:
            label = served.add(source)
        except Exception as error:  # the visitor is told, whatever it is
            return gr.update(), gr.update(), gr.update(value=told(error), visible=True)
        chosen = [*chosen, label] if label not in chosen else chosen
        return (
            gr.update(choices=list(served.get().patches), value=chosen),
            gr.update(value=""),
            gr.update(visible=False),
        )

    patches.change(stack_of, patches, order, show_progress="hidden", queue=False)
    gr.on([add.click, source.submit], more, [source, patches], [patches, source, problem])
    inputs = [prompt, patches, seed, temperature, top_p, new_tokens, blur]
    outputs = [base, patched, problem]
    writing = gr.on([go.click, prompt.submit], write, inputs, outputs, concurrency_limit=8, show_progress="hidden")
    stop.click(None, cancels=[writing])
    return patches


def _stack_html(loaded: Loaded, labels: list[str]) -> str:
    loaded.stack(labels)  # says so if one is not in memory any more
    lengths = [loaded.model.patch_config[loaded.patches[label].name].num_virtual_tokens for label in labels]
    return stack_html(labels, lengths)


def _write(
    served: Served,
    prompt: str,
    labels: list[str],
    seed: float,
    temperature: float,
    top_p: float,
    new_tokens: int,
    blur: bool,
) -> Iterator[tuple[str, str, Any]]:
    """Yield the two columns after each token, and what went wrong."""
    wrong = gr.update(visible=False)
    if not prompt.strip():
        yield "", "", gr.update(value="Write a prompt first: the beginning of a sentence.", visible=True)
        return
    try:
        if not served.is_loaded:
            yield "Loading the model ...", "", wrong
        loaded = served.get()
        rows = ["__base__", loaded.stack(labels)]
        answers = stream_answers(
            loaded.model,
            loaded.tokenizer,
            prompt,
            rows,
            max_new_tokens=min(int(new_tokens), MOST_NEW_TOKENS),
            max_prompt_tokens=MOST_PROMPT_TOKENS,
            top_p=top_p,
            temperature=temperature,
            seed=int(seed or 0),
        )
        titles = ("Base", f"With {' + '.join(labels)}" if labels else "With no patch: the base again")
        for both in answers:
            yield *(_column(loaded, prompt, *each, blur) for each in zip(titles, both)), wrong
    except Exception as error:  # the visitor is told, whatever it is
        yield "", "", gr.update(value=told(error), visible=True)


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
