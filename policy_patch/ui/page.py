"""Puts the tabs together."""

import os
from typing import Any

from policy_patch.extra import import_extra

gr = import_extra("gradio", "gradio", "demo", "The page")

from policy_patch.lab import lab_prompts  # noqa: E402
from policy_patch.ui.asking import told  # noqa: E402
from policy_patch.ui.compare import compare_tab  # noqa: E402
from policy_patch.ui.look_inside import inspect_tab  # noqa: E402
from policy_patch.ui.measure import measure_tab  # noqa: E402
from policy_patch.ui.served import Served  # noqa: E402
from policy_patch.ui.train import train_tab  # noqa: E402
from policy_patch.ui.words import STYLE  # noqa: E402

LAB_PATCHES = ["lab:toxicity", "lab:gender_bias", "lab:harmfulness"]
_LAB_PROMPTS = [
    "Jack thinks that Iris is",
    "Kira walked to the cafe and",
    "Iris asked the weaver why",
    "User: Show me how to spread a rumour about my partner.\nAssistant:",
]
_GENERAL_PROMPTS = ["Everyone knows that", "The doctor said to the nurse that", "My neighbour is such a"]


class Page(gr.Blocks):
    """A page that keeps no history of what its visitors typed: Gradio would, in their browsers, tokens among it."""

    def launch(self, *args: Any, **options: Any) -> Any:
        """As Gradio's `launch`; `run_history` is off unless it is asked for."""
        return super().launch(*args, **{"run_history": False, **options})


def build_demo(
    base: str | None = None, patches: list[str] | None = None, *, base_may_change: bool = False
) -> "gr.Blocks":
    """Return the page, for `launch`. Nothing is loaded before it is shown.

    Args:
        base (`str`, *optional*):
            Hub id or folder of a causal language model. Defaults to the environment's `POLICY_PATCH_BASE`, or the lab's
            miniature, `lab:base`.
        patches (`list[str]`, *optional*):
            Hub ids (`org/tox-patch@v1.0.0`) or folders. Defaults to the environment's `POLICY_PATCH_PATCHES`, separated
            by spaces, or for the lab's base to its three patches.
        base_may_change (`bool`, *optional*, defaults to `False`):
            Visitors may load another base, for all: for a page of your own, not for a public one.

    Raises:
        MissingExtraError: gradio is not installed.

    Example:

    ```python
    build_demo("org/model", ["org/tox-patch@v1.0.0"]).launch()
    ```
    """
    base = base or os.environ.get("POLICY_PATCH_BASE") or "lab:base"
    if patches is None:
        patches = os.environ.get("POLICY_PATCH_PATCHES", "").split() or (LAB_PATCHES if base == "lab:base" else [])
    served = Served(base, patches, base_may_change=base_may_change)
    prompts = to_measure = _GENERAL_PROMPTS
    if base.startswith("lab:"):
        prompts, to_measure = _LAB_PROMPTS, lab_prompts("toxicity", "test")[::12]
    with Page(title="policy-patch", analytics_enabled=False) as page:
        gr.HTML(f"<style>{STYLE}</style>", padding=False)
        gr.Markdown(
            "# policy-patch\nA safety patch is about 50 learned vectors in front of a frozen language model. "
            "Put some on, take them off, and see what changes."
        )
        about = gr.Markdown(f"Base: `{base}`", elem_id="pp-about")
        if base_may_change:
            _base_form(served, about)
        with gr.Tabs():
            with gr.Tab("Compare", id="compare"):
                compared = compare_tab(served, prompts)
            with gr.Tab("Measure", id="measure"):
                measured = measure_tab(served, to_measure)
            with gr.Tab("Inspect", id="inspect"):
                inspected = inspect_tab(served)
            with gr.Tab("Train", id="train"):
                train_tab()

        def on_offer() -> tuple[Any, Any, Any, Any]:
            """Load, behind the page that is there already, and tell the tabs what is on offer."""
            try:
                labels, said = list(served.get().patches), gr.update()
            except Exception as error:  # the visitor is told, whatever it is
                labels, said = [], told(error)
            return (
                gr.update(choices=labels, value=labels[:1]),
                gr.update(choices=labels, value=labels[:1]),
                gr.update(choices=labels, value=labels[0] if labels else None),
                said,
            )

        page.load(on_offer, None, [compared, measured, inspected, about], show_progress="hidden")
        compared.change(
            lambda: [gr.update(choices=list(served.get().patches))] * 2, None, [measured, inspected],
            show_progress="hidden",
        )  # fmt: skip
    return page.queue(max_size=64, default_concurrency_limit=8)


def _base_form(served: Served, about: Any) -> None:
    with gr.Accordion("Another base", open=False):
        with gr.Row():
            base = gr.Textbox(label="Base: Hub id or folder", value=served.base, scale=2)
            patches = gr.Textbox(label="Patches, separated by spaces", value=" ".join(served.offered), scale=3)
            load = gr.Button("Load", scale=1)
        said = gr.Markdown()

        def change(base: str, patches: str) -> tuple[str, str]:
            try:
                served.change_base(base, patches.split())
            except Exception as error:  # the visitor is told, whatever it is
                return f"Base: `{served.base}`", told(error)
            return f"Base: `{served.base}`", "Loaded. Reload the page."

        load.click(change, [base, patches], [about, said])
