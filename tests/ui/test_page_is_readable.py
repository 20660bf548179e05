"""The page in a real browser, as people read it: a phone and a desktop, light and dark, keyboard alone.

POLICY_PATCH_SCREENSHOTS names a folder that gets the pictures of the documentation.
"""

import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")

from policy_patch.lab import LAB_MODELS_PATH  # noqa: E402
from tests.hub.conftest import put  # noqa: E402
from tests.ui.chromium import (  # noqa: E402
    PATCHES,
    SCREENSHOTS,
    needs_chromium,
    open_tab,
    picture,
    running_page,
    visit,
)

WIDTHS = (1280, 390)
OWN_PAGE = "from policy_patch.ui import build_demo; build_demo(base_may_change=True).launch(quiet=True)"
expect = sync_api.expect

# Texts that a reader does not see whole: cut at the edge of their element or of the window, or broken within a word.
# Words of code, hashes and words longer than 24 letters may be broken, and a text box with lines may scroll.
CUT = r"""() => {
  const found = [];
  const isSeen = (one) => one.checkVisibility({checkOpacity: true, visibilityProperty: true})
    && !one.closest(".sr-only, [aria-hidden=true], .pp-blur");
  for (const one of document.querySelectorAll(".gradio-container *")) {
    if (!isSeen(one) || one.matches("textarea, svg *, input[type=range]")) continue;
    const where = one.closest("[id^=pp-]")?.id, style = getComputedStyle(one);
    if (one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 1 && style.display !== "inline"
        && style.overflowX !== "visible") found.push(["cut", where, (one.value || one.textContent).slice(0, 60)]);
    if (style.textOverflow === "ellipsis" && one.scrollWidth > one.clientWidth) found.push(["dots", where]);
    for (const text of one.childNodes) {
      if (text.nodeType !== 3 || one.closest("pre, .pp-any")) continue;
      for (const word of text.textContent.matchAll(/(?<![\p{L}\p{N}])[\p{L}\p{N}]{2,24}(?![\p{L}\p{N}])/gu)) {
        const range = document.createRange();
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].filter((box) => box.width).map((box) => Math.round(box.top)));
        if (lines.size > 1) found.push(["broken", where, word[0]]);
        const box = range.getBoundingClientRect();
        if (box.width && (box.right > innerWidth + 1 || box.left < -1)) found.push(["outside", where, word[0]]);
      }
    }
  }
  return found;
}"""

# Texts whose contrast with what is behind them is below 4.5, the least that WCAG 2 asks for (success criterion 1.4.3).
PALE = r"""() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((one, at) => (one * a + under[at] * (255 - a)) / 255);
  const behind = (one) => {
    if (!one) return [255, 255, 255];
    const own = rgba(getComputedStyle(one).backgroundColor);
    return own[3] === 255 ? own.slice(0, 3) : over(own, behind(one.parentElement));
  };
  const light = (colour) => {
    const linear = (one) => one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4;
    const [r, g, b] = colour.map((one) => linear(one / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const found = [];
  for (const one of document.querySelectorAll("#pp-about, #pp-about *, [role=tabpanel] *")) {
    const hasText = [...one.childNodes].some((text) => text.nodeType === 3 && text.textContent.trim());
    if (!hasText || one.closest("svg, .sr-only, pre, .pp-blur")) continue;
    if (!one.checkVisibility({checkOpacity: true, visibilityProperty: true})) continue;
    const ground = behind(one), colour = over(rgba(getComputedStyle(one).color), ground);
    const [high, low] = [light(ground), light(colour)].sort((x, y) => y - x), contrast = (high + .05) / (low + .05);
    if (contrast < 4.5) found.push([contrast.toFixed(2), one.closest("[id^=pp-]")?.id, one.textContent.slice(0, 40)]);
  }
  return found;
}"""

# The element with the focus: where it is, and how wide a line of another colour surrounds it.
FOCUS = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const ground = getComputedStyle(document.body).backgroundColor;
  const isSeen = style.outlineStyle !== "none" && style.outlineColor !== ground;
  return [one.closest("[id^=pp-]")?.id || one.tagName, isSeen ? parseFloat(style.outlineWidth) : 0];
}"""

# The controls that are seen and have not had the focus. Of a group of radio buttons, Tab stops at one.
UNREACHED = """() => {
  const groups = new Set([...window.reached].map((one) => one.type === "radio" ? one.name : null));
  const controls = document.querySelectorAll(
    "[role=tab], [role=tabpanel] :is(input, textarea, button, select, summary, a[href])");
  return [...controls].filter((one) => one.checkVisibility({visibilityProperty: true}) && !one.disabled
      && !window.reached.has(one) && !(one.type === "radio" && groups.has(one.name)))
    .map((one) => [one.tagName, one.type, one.closest("[id^=pp-]")?.id, one.textContent.slice(0, 30)]);
}"""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A page of one's own, which may load another base."""
    with running_page(["-c", OWN_PAGE], tmp_path_factory.mktemp("page") / "log.txt") as running:
        yield running


def at(width, scheme="light"):
    """Return the options of a visitor with this width of window and this colour scheme."""
    phone = {"is_mobile": True, "has_touch": True} if width < 500 else {}
    return {"viewport": {"width": width, "height": 844}, "color_scheme": scheme, **phone}


def wait_for_patches(page):
    expect(page.locator("#pp-patches").get_by_role("checkbox")).to_have_count(len(PATCHES))
    expect(page.locator("#pp-order")).to_contain_text("lab:toxicity (50 vectors)")


def wait_for_answers(page):
    for side in ("base", "patched"):
        expect(page.locator(f"#pp-{side} .pp-facts")).to_contain_text("done")


def assert_whole(page):
    """Fail if a word is cut or pale, or if the page is wider than its window."""
    assert page.evaluate(CUT) == []
    assert page.evaluate(PALE) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark"), (390, "dark")])
def test_no_word_is_cut_or_pale_on_any_tab(browser, server, width, scheme):
    shown = picture if scheme == "light" else (lambda *_: None)
    with visit(browser, server, **at(width, scheme)) as page:
        wait_for_patches(page)
        assert_whole(page)
        page.locator("#pp-write").click()
        wait_for_answers(page)
        assert_whole(page)
        shown(page, "space_compare", width)
        page.locator("#pp-sampling button").first.click()
        page.wait_for_timeout(500)  # Gradio draws the fields of a fold when it is opened, and then sets their values
        page.locator("#pp-seed input").fill("-1")
        expect(page.locator("#pp-seed input")).to_have_value("-1")
        page.locator("#pp-write").click()
        expect(page.locator("#pp-wrong-write-seed")).to_contain_text("The seed is -1; expected a whole number from 0")
        assert_whole(page)
        shown(page, "space_error", width)

        open_tab(page, "Measure")
        page.locator("#pp-measure").click()
        expect(page.locator("#pp-picture img")).to_be_visible(timeout=120_000)
        page.locator("#pp-result summary").click()
        assert_whole(page)
        shown(page, "space_measure", width)

        open_tab(page, "Inspect")
        page.locator("#pp-inspect").click()
        expect(page.locator("#pp-heat img")).to_be_visible()
        assert_whole(page)
        shown(page, "space_inspect", width)

        open_tab(page, "Train")
        assert_whole(page)


@pytest.mark.parametrize("width", WIDTHS if SCREENSHOTS else WIDTHS[1:])
def test_a_patch_that_was_trained_goes_to_compare_and_measure_with_one_click(browser, server, width):
    with visit(browser, server, **at(width)) as page:
        wait_for_patches(page)
        open_tab(page, "Train")
        for name, steps in (("sft", "10"), ("dpo", "5")) if not SCREENSHOTS else ():
            page.locator(f"#pp-{name}").get_by_role("spinbutton").fill(steps)
        page.locator("#pp-train").click()
        expect(page.locator("#pp-said")).to_contain_text("Done: a patch against toxicity", timeout=280_000)
        assert_whole(page)
        picture(page, "space_train", width)
        page.locator("#pp-to-compare").click()
        expect(page.locator("#pp-order")).to_be_visible()
        expect(page.locator("#pp-order")).to_contain_text("trained:toxicity (50 vectors)")
        page.locator("#pp-write").click()
        wait_for_answers(page)
        expect(page.locator("#pp-patched .pp-title")).to_have_text("With the patch trained:toxicity")
        open_tab(page, "Train")
        page.locator("#pp-to-measure").click()
        measured = page.locator("#pp-measured").get_by_role("checkbox", name="trained:toxicity")
        expect(measured).to_be_visible()
        expect(measured).to_be_checked()
        assert_whole(page)


def test_what_looks_for_cut_words_finds_them(browser, server):
    """The control of the tests above."""
    made = {
        "cut": '<div style="width: 3em; overflow: hidden; white-space: nowrap">a sentence that goes on</div>',
        "broken": '<div style="width: 1ch; overflow-wrap: anywhere">toxicity</div>',
        "outside": '<div style="position: absolute; left: -9999px">toxicity</div>',
        None: "<div>toxicity</div>",
    }
    with visit(browser, server) as page:
        wait_for_patches(page)
        for kind, html in made.items():
            page.evaluate("html => document.querySelector('#pp-order').innerHTML = html", html)
            kinds = {found[0] for found in page.evaluate(CUT)}
            assert kinds == ({kind} if kind else set()), kind
        page.evaluate("document.querySelector('#pp-order').innerHTML = '<p style=\"color: #aaa\">pale</p>'")
        assert [found[2] for found in page.evaluate(PALE)] == ["pale"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_used_by_keyboard_alone_and_shows_the_focus(browser, server, scheme):
    with visit(browser, server, **at(1280, scheme)) as page:
        wait_for_patches(page)
        stops = focus_stops(page, 40)
        unseen = {where for where, width in stops if width < 2}
        assert not unseen, unseen
        reached = {where for where, _ in stops}
        assert {"pp-prompt", "pp-patches", "pp-write", "pp-stop", "pp-blur", "pp-source", "pp-add"} <= reached
        go_to(page, "pp-prompt")
        page.keyboard.press("Control+A")
        page.keyboard.type("Tom said that")
        expect(page.locator("#pp-prompt")).to_contain_text("Ctrl+Enter writes")
        page.keyboard.press("Control+Enter")
        wait_for_answers(page)
        expect(page.locator("#pp-base .pp-prompt")).to_have_text("Tom said that")
        go_to(page, "pp-source")
        page.keyboard.type("nonsense")
        page.keyboard.press("Enter")
        expect(page.locator("#pp-wrong-write-source")).to_contain_text("nonsense is not the name of a patch")
        assert page.evaluate(PALE) == []
        page.get_by_role("tab", name="Measure").focus()
        page.keyboard.press("Enter")
        go_to(page, "pp-prompts")
        page.keyboard.press("Control+A")
        page.keyboard.type("Tom said that")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#pp-result table").first).to_be_visible(timeout=120_000)
        assert page.evaluate(PALE) == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_control_of_every_tab_is_reached_by_tab_and_shows_the_focus(browser, server, width, scheme):
    with visit(browser, server, **at(width, scheme)) as page:
        wait_for_patches(page)
        for name in ("Compare", "Measure", "Inspect", "Train"):
            open_tab(page, name)
            page.wait_for_timeout(500)
            page.evaluate("document.activeElement.blur(); window.reached = new Set()")
            assert page.evaluate(UNREACHED), "the control: without a key, nothing is reached"
            unseen = set()
            for _ in range(80):
                page.keyboard.press("Tab")
                where, line = page.evaluate(FOCUS)
                page.evaluate("window.reached.add(document.activeElement)")
                unseen |= {where} if line < 2 and where != "BODY" else set()
            assert not unseen, (name, unseen)
            assert page.evaluate(UNREACHED) == [], name


def focus_stops(page, most):
    """Press Tab this often from the top of the page, and return each stop within the page."""
    stops = []
    for _ in range(most):
        page.keyboard.press("Tab")
        stops.append(tuple(page.evaluate(FOCUS)))
    return [stop for stop in stops if stop[0] != "BODY"]  # after the last stop the browser's own controls follow


def go_to(page, name):
    """Press Tab until the focus is there."""
    for _ in range(80):
        if page.evaluate(FOCUS)[0] == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"`{name}` cannot be reached by keyboard")


def test_an_error_is_shown_at_its_field_and_in_sight(browser, server):
    with visit(browser, server, **at(390)) as page:
        wait_for_patches(page)
        page.locator("#pp-prompt textarea").fill(" ")
        page.locator("#pp-write").click()  # below the field, which is then out of sight
        note = page.locator("#pp-wrong-write-prompt .pp-wrong")
        expect(note).to_be_in_viewport()
        assert note.get_attribute("role") == "alert"
        field, below = page.locator("#pp-prompt").bounding_box(), note.bounding_box()
        assert 0 <= below["y"] - (field["y"] + field["height"]) < 60
        page.locator("#pp-prompt textarea").fill("Tom said that")
        page.locator("#pp-write").click()
        wait_for_answers(page)
        expect(note).to_have_count(0)


def test_another_base_clears_the_patches_and_the_prompts(browser, server, hub):
    put({file.name: file.read_bytes() for file in (LAB_MODELS_PATH / "base").iterdir()}, "acme/tiny-base")
    with visit(browser, server, **at(1280)) as page:
        wait_for_patches(page)
        page.locator("#pp-write").click()
        wait_for_answers(page)
        page.get_by_role("button", name="Another base").click()
        page.locator("#pp-new-base input, #pp-new-base textarea").first.fill("acme/nothing-here")
        page.locator("#pp-load").click()
        expect(page.locator("#pp-wrong-base-base")).to_contain_text("no public model of this name")
        expect(page.locator("#pp-patches").get_by_role("checkbox")).to_have_count(len(PATCHES))
        page.locator("#pp-new-base input, #pp-new-base textarea").first.fill("acme/tiny-base")
        page.locator("#pp-load").click()
        expect(page.locator("#pp-about")).to_have_text("Base: acme/tiny-base")
        expect(page.locator("#pp-patches").get_by_role("checkbox")).to_have_count(0)
        expect(page.locator("#pp-prompt textarea")).to_have_value("Everyone knows that")
        expect(page.get_by_text("Kira walked to the cafe and")).to_have_count(0)
        expect(page.locator("#pp-base")).not_to_contain_text("done")
        page.get_by_text("My neighbour is such a").first.click()
        expect(page.locator("#pp-prompt textarea")).to_have_value("My neighbour is such a")
        open_tab(page, "Measure")
        expect(page.locator("#pp-prompts textarea")).to_have_value("\n".join(
            ["Everyone knows that", "The doctor said to the nurse that", "My neighbour is such a"]))  # fmt: skip
        page.locator("#pp-new-base input, #pp-new-base textarea").first.fill("lab:base")
        page.locator("#pp-new-patches input, #pp-new-patches textarea").first.fill(" ".join(PATCHES))
        page.locator("#pp-load").click()
        expect(page.locator("#pp-about")).to_have_text("Base: lab:base")
        expect(page.locator("#pp-measured").get_by_role("checkbox")).to_have_count(len(PATCHES))
