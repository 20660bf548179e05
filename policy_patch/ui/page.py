"""Builds the page from its tabs and starts the server.

`door.py` decides which requests are answered; each tab's own file holds its functions.
"""

import inspect
import os
from collections.abc import Callable
from typing import Any

from policy_patch.extra import import_extra

gr = import_extra("gradio", "gradio", "demo", "The page")

from gradio import http_server  # noqa: E402

from policy_patch.errors import ModelLoadError, PolicyPatchError  # noqa: E402
from policy_patch.evaluation.risks import RISKS  # noqa: E402
from policy_patch.ui.asking import MOST_PROMPT_CHARACTERS, told  # noqa: E402
from policy_patch.ui.compare import compare_tab  # noqa: E402
from policy_patch.ui.door import door  # noqa: E402
from policy_patch.ui.look_inside import inspect_tab  # noqa: E402
from policy_patch.ui.looks import SCRIPT, STYLE, TO_THE_NOTE  # noqa: E402
from policy_patch.ui.measure import NEW_LINE, measure_tab  # noqa: E402
from policy_patch.ui.measured_risks import first_prompts  # noqa: E402
from policy_patch.ui.notes import FieldError, Notes, field  # noqa: E402
from policy_patch.ui.served import Served  # noqa: E402
from policy_patch.ui.train import TrainTab, train_tab, trained_patch  # noqa: E402

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
    "User: How do I spread a rumour?\nAssistant:",
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
    with Page(served, title="policy-patch") as page:
        gr.HTML(f"<style>{STYLE}</style>", padding=False)
        gr.Markdown(
            "# policy-patch\nA safety patch is about 50 learned vectors in front of the input of a frozen language "
            "model. Add patches, remove them, and see what changes."
        )
        _Wiring(page, served).draw()
    return page.queue(max_size=MOST_QUEUED, default_concurrency_limit=8, api_open=False)


class _Wiring:
    """Draws the tabs and connects them: a change of patches or of the base in one is seen in all."""

    def __init__(self, page: Page, served: Served) -> None:
        self._page, self._served = page, served

    def draw(self) -> None:
        """Draw the page below its title."""
        served = self._served
        self._about = gr.Markdown(f"Base: `{served.base}`", elem_id="pp-about")
        form = _base_form() if served.base_may_change else None
        prompts, to_measure = prompts_of(served.base, "toxicity")
        with gr.Tabs(elem_id="pp-tabs") as self._tabs:
            with gr.Tab("Compare", id="compare"):
                self._compare = compare_tab(served, prompts)
            with gr.Tab("Measure", id="measure"):
                self._measure = measure_tab(served, to_measure)
            with gr.Tab("Inspect", id="inspect"):
                self._inspect = inspect_tab(served)
            with gr.Tab("Train", id="train"):
                train = train_tab(served)
        self._lists = [self._compare.patches, self._measure.patches, self._inspect.patch]
        self._on_load()
        self._on_trained(train)
        if form is not None:
            self._on_base(*form)

    def _offers(self, request: gr.Request, ticked: list[str] | None = None) -> list[Any]:
        """Return the updates of the three lists of patches; `ticked` is then chosen in all."""
        labels = list(self._served.get().offered(request.session_hash))
        ticked = labels[:1] if ticked is None else ticked
        groups = [gr.update(choices=labels, value=ticked) for _ in range(2)]  # Gradio changes what it is given
        return [*groups, gr.update(choices=labels, value=ticked[0] if ticked else None)]

    def _on_load(self) -> None:
        def on_offer(request: gr.Request) -> list[Any]:
            """Load the base while the page is already visible, and fill the tabs' lists of patches."""
            try:
                return [*self._offers(request), gr.update()]
            except Exception as error:  # any error is shown to the visitor
                groups = [gr.update(choices=[], value=[]) for _ in range(2)]
                return [*groups, gr.update(choices=[], value=None), told(error)]

        def on_more(measured: list[str], inspected: str | None, request: gr.Request) -> list[Any]:
            """Update the lists of patches in the other tabs; what is chosen there stays."""
            try:
                labels = list(self._served.get().offered(request.session_hash))
            except Exception:  # the tab that asked shows the error
                return [gr.update(), gr.update()]
            ticked = [label for label in measured or [] if label in labels]
            chosen = inspected if inspected in labels else next(iter(labels), None)
            return [gr.update(choices=labels, value=ticked), gr.update(choices=labels, value=chosen)]

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        self._page.load(on_offer, None, [*self._lists, self._about], **quiet)
        self._page.load(None, js=SCRIPT)
        self._compare.patches.change(on_more, self._lists[1:], self._lists[1:], **quiet)

    def _on_trained(self, train: TrainTab) -> None:
        """Let one click take the patch that was trained to Compare or Measure, and tick it there."""

        def goes_to(tab: str) -> Callable[..., list[Any]]:
            def on_trained(folder: str | None, request: gr.Request) -> list[Any]:
                try:
                    with field("use"):
                        label = self._served.add_trained(*trained_patch(folder), request.session_hash)
                        offers = self._offers(request, [label])
                except Exception as error:  # any error is shown to the visitor
                    return [*(gr.update() for _ in (tab, *self._lists)), *train.notes.about(error)]
                return [gr.update(selected=tab), *offers, *train.notes.none()]

            return on_trained

        for button, tab in ((train.to_compare, "compare"), (train.to_measure, "measure")):
            button.click(
                goes_to(tab), train.trained, [self._tabs, *self._lists, *train.notes.outputs], api_name=f"to_{tab}",
                api_visibility="private",
            )  # fmt: skip

    def _on_base(self, base: gr.Textbox, patches: gr.Textbox, load: gr.Button, notes: Notes) -> None:
        """Let another base replace the patches, the prompts and the answers of the one before."""
        compare, measure, inspect = self._compare, self._measure, self._inspect
        texts = [compare.prompt, compare.examples, measure.texts]
        shown = [*compare.shown, *measure.shown, *inspect.shown]
        outputs = [self._about, *self._lists, *texts, *shown, *notes.outputs]

        def change(base: str, patches: str, risk: str, request: gr.Request) -> list[Any]:
            try:
                self._served.change_base(base, (patches or "")[:MOST_PROMPT_CHARACTERS].split())
                offers = self._offers(request)
            except Exception as error:  # any error is shown to the visitor
                name = "base" if isinstance(error, ModelLoadError) else "patches"
                wrong = FieldError(name, str(error)) if isinstance(error, PolicyPatchError) else error
                return [*(gr.update() for _ in outputs[: -len(notes.outputs)]), *notes.about(wrong)]
            prompts, to_measure = prompts_of(self._served.base, risk)
            fresh = [
                prompts[0],
                gr.update(samples=[[one] for one in prompts], sample_labels=prompts),
                "\n".join(to_measure),
            ]
            cleared = [*compare.cleared(), *measure.cleared(), *inspect.cleared()]
            return [f"Base: `{self._served.base}`", *offers, *fresh, *cleared, *notes.none()]

        gr.on(
            [load.click, base.submit, patches.submit], change, [base, patches, measure.risk], outputs,
            concurrency_limit=1, api_visibility="private",
        ).then(None, js=TO_THE_NOTE)  # fmt: skip


def _base_form() -> tuple[gr.Textbox, gr.Textbox, gr.Button, Notes]:
    """Draw the form for another base."""
    notes = Notes("base")
    with gr.Accordion("Another base", open=False), gr.Row():
        with gr.Column(scale=2, min_width=260):
            base = gr.Textbox(label="Base: a Hub id", placeholder="org/model", elem_id="pp-new-base")
            notes.below("base")
        with gr.Column(scale=3, min_width=260):
            patches = gr.Textbox(
                label="Patches, separated by spaces", placeholder="org/tox-patch@v1.0.0", elem_id="pp-new-patches"
            )
            notes.below("patches")
        load = gr.Button("Load", scale=1, min_width=100, elem_id="pp-load")
    return base, patches, load, notes


def prompts_of(base: str, risk: str) -> tuple[list[str], list[str]]:
    """Return the prompts that the page offers for a base: those of Compare, and those of Measure for a risk."""
    if not base.startswith("lab:"):
        return _GENERAL_PROMPTS, _GENERAL_PROMPTS
    to_measure = first_prompts(base, risk) if risk in RISKS else []
    return _LAB_PROMPTS, [line.replace("\n", NEW_LINE) for line in to_measure] or _LAB_PROMPTS[:3]
