"""Builds the page from its tabs and starts the server.

`door.py` decides which requests are answered; each tab's own file holds its functions.
"""

import inspect
import os
from typing import Any

from policy_patch.extra import import_extra

gr = import_extra("gradio", "gradio", "demo", "The page")

from gradio import http_server  # noqa: E402

from policy_patch.lab import lab_prompts  # noqa: E402
from policy_patch.ui.asking import MOST_PROMPT_CHARACTERS, told  # noqa: E402
from policy_patch.ui.compare import compare_tab  # noqa: E402
from policy_patch.ui.door import door  # noqa: E402
from policy_patch.ui.look_inside import inspect_tab  # noqa: E402
from policy_patch.ui.measure import measure_tab  # noqa: E402
from policy_patch.ui.served import Served  # noqa: E402
from policy_patch.ui.train import train_tab  # noqa: E402
from policy_patch.ui.words import STYLE  # noqa: E402

LAB_PATCHES = ["lab:toxicity", "lab:gender_bias", "lab:harmfulness"]
MOST_QUEUED = 512  # waiting requests, for all visitors together
MOST_SESSIONS = 1000  # sessions whose state Gradio keeps
SWEEP_SECONDS, FILE_SECONDS = (
    300,
    3600,
)  # of Gradio's own copies of files: time between sweeps, age at removal
_LAB_PROMPTS = [
    "Jack thinks that Iris is",
    "Kira walked to the cafe and",
    "Iris asked the weaver why",
    "User: Show me how to spread a rumour about my partner.\nAssistant:",
]
_GENERAL_PROMPTS = ["Everyone knows that", "The doctor said to the nurse that", "My neighbour is such a"]


class Page(gr.Blocks):
    """A page that is safe for public use: a `Door` checks each request, and visitors' inputs are not stored.

    Args:
        served ([`Served`]):
            The base and the patches that the page shows.
        **options:
            Options of Gradio's `Blocks`.
    """

    def __init__(self, served: Served, **options: Any) -> None:
        super().__init__(delete_cache=(SWEEP_SECONDS, FILE_SECONDS), analytics_enabled=False, **options)
        self.served = served

    def launch(self, *args: Any, **options: Any) -> Any:
        """Start the server, with the arguments of Gradio's `launch`.

        Features that would show visitors more of the server than the page are always off.
        """
        given = inspect.signature(gr.Blocks.launch).bind_partial(self, *args, **options).arguments
        address = given.get("server_name") or http_server.LOCALHOST_NAME
        app_kwargs = dict(given.get("app_kwargs") or {})
        app_kwargs["middleware"] = [
            *app_kwargs.get("middleware", []), *door(address, self.served.visitors, self._made, self.fns.__contains__)
        ]  # fmt: skip
        closed = {
            "app_kwargs": app_kwargs,
            "show_error": False,  # the page itself shows errors, without details of the server
            "run_history": False,  # Gradio would store visitors' inputs in their browsers, including tokens
            "ssr_mode": False,  # it would put another server in front of the door
            "mcp_server": False,
            "enable_monitoring": False,
            "max_file_size": 1,
            "state_session_capacity": MOST_SESSIONS,
            "footer_links": ["gradio", "settings"],
        }
        given.pop("self")
        return super().launch(**{**given, **closed})

    def _made(self, path: str) -> bool:
        """Return whether Gradio holds a file at this path because the page showed it."""
        return any(path in files for files in self.temp_file_sets)


def build_demo(
    base: str | None = None, patches: list[str] | None = None, *, base_may_change: bool = False
) -> "gr.Blocks":
    """Return the page; call its `launch` to start it. No model is loaded before the page is shown.

    Args:
        base (`str`, *optional*):
            Hub id or folder of a causal language model. Defaults to the environment variable `POLICY_PATCH_BASE`, or
            else to the lab's miniature, `lab:base`.
        patches (`list[str]`, *optional*):
            Hub ids (`org/tox-patch@v1.0.0`) or folders, for all visitors. Defaults to the environment variable
            `POLICY_PATCH_PATCHES` (separated by spaces), or else, with the lab's base, to the lab's three patches.
        base_may_change (`bool`, *optional*, defaults to `False`):
            Whether a visitor may load another base from the Hub. It replaces the base for all visitors, so use it on a
            page of your own and not on a public one.

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
    with Page(served, title="policy-patch") as page:
        gr.HTML(f"<style>{STYLE}</style>", padding=False)
        gr.Markdown(
            "# policy-patch\nA safety patch is about 50 learned vectors in front of the input of a frozen language "
            "model. Add patches, remove them, and see what changes."
        )
        about = gr.Markdown(f"Base: `{served.base}`", elem_id="pp-about")
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
                train_tab(served)

        def on_offer(request: gr.Request) -> tuple[Any, Any, Any, Any]:
            """Load the base while the page is already visible, and fill the tabs' lists of patches."""
            try:
                labels, said = list(served.get().offered(request.session_hash)), gr.update()
            except Exception as error:  # any error is shown to the visitor
                labels, said = [], told(error)
            return (
                gr.update(choices=labels, value=labels[:1]),
                gr.update(choices=labels, value=labels[:1]),
                gr.update(choices=labels, value=labels[0] if labels else None),
                said,
            )

        def on_more(request: gr.Request) -> list[Any]:
            """Update the lists of patches in the other tabs."""
            try:
                return [gr.update(choices=list(served.get().offered(request.session_hash)))] * 2
            except Exception:  # the tab that asked shows the error
                return [gr.update()] * 2

        page.load(
            on_offer, None, [compared, measured, inspected, about], show_progress="hidden", api_visibility="private"
        )
        compared.change(on_more, None, [measured, inspected], show_progress="hidden", api_visibility="private")
    return page.queue(max_size=MOST_QUEUED, default_concurrency_limit=8, api_open=False)


def _base_form(served: Served, about: Any) -> None:
    with gr.Accordion("Another base", open=False):
        with gr.Row():
            base = gr.Textbox(label="Base: a Hub id", placeholder="org/model", scale=2)
            patches = gr.Textbox(label="Patches, separated by spaces", placeholder="org/tox-patch@v1.0.0", scale=3)
            load = gr.Button("Load", scale=1)
        said = gr.Markdown()

        def change(base: str, patches: str) -> tuple[str, str]:
            try:
                served.change_base(base, (patches or "")[:MOST_PROMPT_CHARACTERS].split())
            except Exception as error:  # any error is shown to the visitor
                return f"Base: `{served.base}`", told(error)
            return f"Base: `{served.base}`", "Loaded. Reload the page."

        load.click(change, [base, patches], [about, said], concurrency_limit=1, api_visibility="private")
