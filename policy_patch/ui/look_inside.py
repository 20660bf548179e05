"""The tab that shows the content of a patch: configuration, card, fit to the base, and the tokens near its vectors.

It runs no model and measures nothing.
"""

import html
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import torch

from policy_patch.config import PolicyPatchConfig
from policy_patch.extra import import_extra, needs_extra
from policy_patch.hub.names import split_id
from policy_patch.hub.publishing import patch_card
from policy_patch.model_card.card import CARD_NAME, model_card
from policy_patch.privacy.local_names import is_local
from policy_patch.ui.guests import Offered
from policy_patch.ui.looks import TO_THE_NOTE
from policy_patch.ui.notes import FieldError, Notes
from policy_patch.ui.paths import without_paths
from policy_patch.ui.results import picture_html, table_html
from policy_patch.ui.served import Loaded, Served, shown_name

with needs_extra("demo", "The page"):
    import gradio as gr

NEAREST = 5
SHOWN_AT_ONCE = 12  # vectors in the table; a click shows the others
MOST_SHOWN = 2000  # characters of one value of a configuration
_MOST_CARD_BYTES = 2**18


@dataclass(frozen=True)
class InspectTab:
    """The parts of the tab that the page changes when its patches or its base change.

    Args:
        patch (`gr.Dropdown`):
            The patches on offer, and which is chosen.
        shown (`list`):
            What the tab shows of the patch, which `cleared` empties.
    """

    patch: gr.Dropdown
    shown: list[Any]
    notes: Notes

    def cleared(self) -> list[Any]:
        """Return the updates for `shown` that leave nothing of a patch and no message."""
        return _nothing(self.notes.none())


def inspect_tab(served: Served) -> InspectTab:
    """Draw the tab and return its parts that the page keeps up to date."""
    gr.Markdown("A patch is a small matrix of vectors like token embeddings. They go between BOS and your text.")
    notes = Notes("inspected")
    with gr.Row():
        patch = gr.Dropdown(choices=[], label="Patch", elem_id="pp-inspected", scale=3)
        go = gr.Button("Look inside", variant="primary", scale=1, elem_id="pp-inspect")
    notes.below("inspected")
    fits = gr.Markdown(elem_id="pp-fits")
    with gr.Row():
        with gr.Column(min_width=300):
            facts = gr.HTML(elem_id="pp-facts")
        with gr.Column(min_width=300):
            near = gr.HTML(elem_id="pp-nearest")
    heat = gr.HTML(visible=False, elem_id="pp-heat")
    card = gr.Markdown(label="Card", elem_id="pp-card")

    def look(label: str | None, request: gr.Request) -> list[Any]:
        try:
            if not label:
                raise FieldError("inspected", "No patch was chosen. Choose one first.")
            with served.visitors.working(request.session_hash, "looking inside"):
                return [*_inside(served.get(), label, request.session_hash), *notes.none()]
        except Exception as error:  # any error is shown to the visitor
            return _nothing(notes.about(error))

    # Two at a time: each call copies the base's whole embedding matrix.
    shown = [fits, facts, near, heat, card, *notes.outputs]
    go.click(look, patch, shown, concurrency_limit=2).then(None, js=TO_THE_NOTE)
    return InspectTab(patch, shown, notes)


def _nothing(notes: list[Any]) -> list[Any]:
    return ["", "", "", gr.update(visible=False), "", *notes]


def _inside(loaded: Loaded, label: str, visitor: str | None) -> list[Any]:
    [offered] = loaded.chosen([label], visitor)
    location = offered.location
    config = loaded.model.patch_config[offered.name]
    vectors = loaded.model.patches[offered.name].detach().float().cpu()
    facts = [
        [name.replace("_", " "), without_paths(_in_words(value))[:MOST_SHOWN]]
        for name, value in config.to_dict().items()
        if value is not None and name != "base_fingerprint"
    ]
    if location.commit is not None:
        facts += [["repository", location.repo_id], ["commit", location.commit]]
    how = "by its fingerprint" if config.base_fingerprint else "by its size alone: this old patch has no fingerprint"
    fits = (
        f"**Fits `{loaded.base}`**, checked {how}. {vectors.numel():,} numbers, {vectors.numel() * 4 / 1024:.0f} KiB."
    )
    heat = gr.update(value=picture_html(_heat_map(vectors), "Norms and numbers of the vectors"), visible=True)
    return [
        fits,
        _facts_html(facts),
        _near_html(nearest_tokens(loaded, vectors)),
        heat,
        _card_of(label, offered, config),
    ]


def _in_words(value: Any) -> str:
    """Return a value of a configuration as a reader sees it: a list of texts without brackets and quotes."""
    is_texts = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    return ", ".join(value) if is_texts else str(value)


def _facts_html(facts: list[list[str]]) -> str:
    lines = [[html.escape(name), f'<span class="pp-any">{html.escape(value)}</span>'] for name, value in facts]
    return f'<h3 class="pp-head">Configuration</h3>{table_html(["field", "value"], lines)}'


def _near_html(near: list[list[str]]) -> str:
    header, lines = ["vector", "norm", "tokens"], []
    for number, norm, *tokens in near:
        chips = "".join(f"<span>{html.escape(token)}</span>" for token in tokens)
        lines.append([number, norm, f'<div class="pp-chips">{chips}</div>'])
    page = f'<h3 class="pp-head">Nearest tokens, by cosine</h3>{table_html(header, lines[:SHOWN_AT_ONCE])}'
    if rest := lines[SHOWN_AT_ONCE:]:
        page += f"<details><summary>The other {len(rest)} vectors</summary>{table_html(header, rest)}</details>"
    return page


def _card_of(label: str, offered: Offered, config: PolicyPatchConfig) -> str:
    """Return the patch's own card, or else one whose code loads the patch from where a reader can get it."""
    place = offered.location.folder / CARD_NAME
    if place.is_file() and place.stat().st_size <= _MOST_CARD_BYTES:
        return without_paths(_without_front_matter(place.read_text(encoding="utf-8")))
    repo_id, commit, base = offered.location.repo_id, offered.location.commit, config.base_model_name_or_path
    if base and is_local(base, look=False):  # the folder's name only
        config = replace(config, base_model_name_or_path=f"path/to/{shown_name(base)}")
    if repo_id is not None:
        shown = patch_card(repo_id, config, revision=split_id(label)[1] or commit)
    else:  # a patch of the lab is loaded by its name; a folder is known to the person who has it
        named = label if label.startswith("lab:") else f"path/to/{label.replace(':', '-')}"
        shown = model_card(config, None, named=named)
    return without_paths(_without_front_matter(shown))


def nearest_tokens(loaded: Loaded, vectors: torch.Tensor) -> list[list[str]]:
    """Return one row per vector: its number, its norm, and the tokens whose embeddings have the highest cosine with it.

    Args:
        loaded ([`Loaded`]):
            Gives the token embeddings and the tokenizer.
        vectors (`torch.Tensor` of shape `(num_virtual_tokens, hidden_size)`):
            A patch's vectors in float32, on the CPU.
    """
    table = loaded.model.get_input_embeddings().weight.detach().float().cpu()
    cosine = torch.nn.functional.normalize(vectors, dim=1) @ torch.nn.functional.normalize(table, dim=1).T
    values, ids = cosine.topk(NEAREST, dim=1)  # (num_virtual_tokens, NEAREST)
    return [
        [
            str(number),
            f"{norm:.3g}",
            *(f"{loaded.tokenizer.decode([token])!r} {value:.2f}" for token, value in zip(row, near)),
        ]
        for number, (norm, row, near) in enumerate(zip(vectors.norm(dim=1).tolist(), ids.tolist(), values.tolist()))
    ]


def _heat_map(vectors: torch.Tensor) -> bytes:
    """Return a PNG: the norms on top, the matrix below, the vectors from left to right."""
    figure_module = import_extra("matplotlib.figure", "matplotlib", "eval", "The heat map")
    agg = import_extra("matplotlib.backends.backend_agg", "matplotlib", "eval", "The heat map")
    figure = figure_module.Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")  # readable on a phone, too
    agg.FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=[1, 4])
    norms = vectors.norm(dim=1)
    drawn = above.imshow(norms.unsqueeze(0).numpy(), aspect="auto", cmap="viridis")
    above.set_yticks([])
    above.set_title("norm of each vector")
    figure.colorbar(drawn, ax=above)
    most = vectors.abs().max().item() or 1.0
    drawn = below.imshow(vectors.T.numpy(), aspect="auto", cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest")
    below.set_xlabel("vector")
    below.set_ylabel("dimension")
    figure.colorbar(drawn, ax=below)
    drawing = BytesIO()
    figure.savefig(drawing, format="png")
    return drawing.getvalue()


def _without_front_matter(text: str) -> str:
    parts = text.split("---\n", 2)
    return parts[2] if text.startswith("---\n") and len(parts) == 3 else text
