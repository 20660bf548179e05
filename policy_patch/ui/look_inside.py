"""The tab that shows the content of a patch: configuration, card, fit to the base, and the tokens near its vectors.

It runs no model and measures nothing.
"""

from io import BytesIO

import torch

from policy_patch.extra import import_extra, needs_extra
from policy_patch.hub.publishing import patch_card
from policy_patch.model_card.card import CARD_NAME
from policy_patch.ui.asking import told
from policy_patch.ui.measure import picture_html
from policy_patch.ui.paths import without_paths
from policy_patch.ui.served import Loaded, Served

with needs_extra("demo", "The page"):
    import gradio as gr

NEAREST = 5
MOST_SHOWN = 2000  # characters of one value of a configuration
_MOST_CARD_BYTES = 2**18


def inspect_tab(served: Served) -> gr.Dropdown:
    """Draw the tab and return its list of patches, which the page keeps up to date."""
    gr.Markdown("A patch is a small matrix of vectors like token embeddings. They go between BOS and your text.")
    with gr.Row():
        patch = gr.Dropdown(choices=[], label="Patch", elem_id="pp-inspected", scale=3)
        go = gr.Button("Look inside", variant="primary", scale=1, elem_id="pp-inspect")
    fits = gr.Markdown(elem_id="pp-fits")
    with gr.Row():
        facts = gr.Dataframe(headers=["field", "value"], label="Configuration", wrap=True, interactive=False)
        near = gr.Dataframe(
            headers=["vector", "norm", *(f"nearest {number}" for number in range(1, NEAREST + 1))],
            label="Nearest tokens, by cosine",
            interactive=False,
            elem_id="pp-nearest",
        )
    heat = gr.HTML(visible=False, elem_id="pp-heat")
    card = gr.Markdown(label="Card")

    def look(label: str | None, request: gr.Request) -> tuple:
        if not label:
            return "Choose a patch first.", None, None, gr.update(visible=False), ""
        try:
            with served.visitors.working(request.session_hash, "looking inside"):
                return _inside(served.get(), label, request.session_hash)
        except Exception as error:  # any error is shown to the visitor
            return told(error), None, None, gr.update(visible=False), ""

    # Two at a time: each call copies the base's whole embedding matrix.
    go.click(look, patch, [fits, facts, near, heat, card], concurrency_limit=2)
    return patch


def _inside(loaded: Loaded, label: str, visitor: str | None) -> tuple:
    [offered] = loaded.chosen([label], visitor)
    location = offered.location
    config = loaded.model.patch_config[offered.name]
    vectors = loaded.model.patches[offered.name].detach().float().cpu()
    facts = [
        [name.replace("_", " "), without_paths(str(value))[:MOST_SHOWN]]
        for name, value in config.to_dict().items()
        if value is not None and name != "base_fingerprint"
    ]
    if location.commit is not None:
        facts += [["repository", location.repo_id], ["commit", location.commit]]
    how = "by its fingerprint" if config.base_fingerprint else "by its size alone: this old patch has no fingerprint"
    fits = (
        f"**Fits `{loaded.base}`**, checked {how}. {vectors.numel():,} numbers, {vectors.numel() * 4 / 1024:.0f} KiB."
    )
    card = location.folder / CARD_NAME
    is_shown = card.is_file() and card.stat().st_size <= _MOST_CARD_BYTES
    shown = card.read_text(encoding="utf-8") if is_shown else patch_card(label, config)  # the card that a push writes
    heat = gr.update(value=picture_html(_heat_map(vectors), "Norms and numbers of the vectors"), visible=True)
    return fits, facts, nearest_tokens(loaded, vectors), heat, without_paths(_without_front_matter(shown))


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
    figure = figure_module.Figure(figsize=(9, 4.2), dpi=110, layout="constrained")
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
