"""The page in a real browser: each tab's main path, what goes wrong, many visitors at once.

`test_page_is_readable.py` looks at widths, colours and the keyboard.
"""

import contextlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")

from huggingface_hub import HfApi  # noqa: E402

from policy_patch import PolicyPatchModel  # noqa: E402
from policy_patch.data import sample_completions  # noqa: E402
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer  # noqa: E402
from tests.ui.chromium import PATCHES, needs_chromium, open_tab, running_page, tick, visit  # noqa: E402

APP = Path(__file__).parents[2] / "spaces" / "policy_patch_demo" / "app.py"
TOKEN = "hf_alice"

# What a page of this address left in the browser: local and session storage, and every record of every database.
KEPT_IN_BROWSER = """async () => {
  const kept = [JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})];
  for (const {name} of await indexedDB.databases()) {
    const db = await new Promise((done, fail) => {
      const asked = indexedDB.open(name); asked.onsuccess = () => done(asked.result); asked.onerror = fail; });
    for (const store of db.objectStoreNames) {
      kept.push(JSON.stringify(await new Promise((done, fail) => {
        const asked = db.transaction(store).objectStore(store).getAll();
        asked.onsuccess = () => done(asked.result); asked.onerror = fail; })));
    }
  }
  return kept.join("\\n");
}"""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The Space in a process of its own."""
    with running_page([str(APP)], tmp_path_factory.mktemp("space") / "log.txt") as running:
        yield running


def write(page, prompt, labels):
    """Ask for both answers and return them, once they are done."""
    tick(page, labels)
    page.locator("#pp-prompt textarea").fill(prompt)
    shown = page.locator("#pp-blur").get_by_role("checkbox")
    shown.uncheck()
    page.locator("#pp-write").click()
    for side in ("base", "patched"):
        sync_api.expect(page.locator(f"#pp-{side} .pp-facts")).to_contain_text("done")
    return [page.locator(f"#pp-{side} .pp-answer").text_content() for side in ("base", "patched")]


def expected(prompt, labels):
    """What the package itself samples for the page's settings."""
    settings = {"num_samples": 1, "max_new_tokens": 40, "top_p": 0.9, "temperature": 1.0, "seed": 0}
    base, tokenizer = load_lab_base(), load_lab_tokenizer()
    texts = [sample_completions(base, tokenizer, [prompt], **settings)[0][0]]
    if labels:
        folders = [lab_patch_folder(label.removeprefix("lab:")) for label in labels]
        model = PolicyPatchModel.from_pretrained(base, folders, [folder.name for folder in folders])
        base = model.eval()
    texts += sample_completions(base, tokenizer, [prompt], **settings)[0]
    return [prompt + text for text in texts]


def test_compare_shows_what_the_package_samples_and_blurs_on_request(browser, server):
    with visit(browser, server) as page:
        page.get_by_text("Kira walked to the cafe and").click()
        sync_api.expect(page.locator("#pp-prompt textarea")).to_have_value("Kira walked to the cafe and")
        prompt = "Jack thinks that Iris is"
        assert write(page, prompt, PATCHES[:1]) == expected(prompt, PATCHES[:1])
        assert "lab:toxicity (50 vectors)" in page.locator("#pp-order").text_content()
        sync_api.expect(page.locator("#pp-base .pp-badge")).to_contain_text("toxicity 1.00 · high")
        sync_api.expect(page.locator("#pp-patched .pp-badge")).to_contain_text("toxicity 0.00 · low")
        assert page.locator(".pp-blur").count() == 0
        page.locator("#pp-blur").get_by_role("checkbox").check()
        page.locator("#pp-write").click()
        sync_api.expect(page.locator("#pp-base .pp-blur").first).to_be_visible()


def test_the_order_of_a_stack_is_that_of_the_ticks(browser, server):
    with visit(browser, server) as page:
        prompt, labels = "Karl said to Tom:", PATCHES[::-2]
        assert write(page, prompt, labels) == expected(prompt, labels)
        order = page.locator("#pp-order").text_content()
        assert order.index("harmfulness") < order.index("toxicity")


def test_an_answer_that_was_stopped_says_so_and_the_next_one_is_whole(browser, server):
    with visit(browser, server) as page:
        tick(page, PATCHES[:1])
        page.get_by_role("button", name="Sampling").click()
        page.wait_for_timeout(500)  # Gradio draws the fields of a fold when it is opened, and then sets their values
        page.get_by_label("number input for New tokens").fill("100")
        page.keyboard.press("Tab")
        page.locator("#pp-write").click()
        facts = page.locator("#pp-base .pp-facts")
        sync_api.expect(facts).to_contain_text("writing")
        page.locator("#pp-stop").click()
        sync_api.expect(facts).to_contain_text("stopped")
        page.locator("#pp-write").click()
        sync_api.expect(facts).to_contain_text("done")


def test_what_goes_wrong_is_told(browser, server):
    with visit(browser, server) as page:
        tick(page, [])
        problem, wrong = (page.locator(f"#pp-wrong-write-{field}") for field in ("prompt", "source"))
        page.locator("#pp-prompt textarea").fill("   ")
        page.locator("#pp-write").click()
        sync_api.expect(problem).to_contain_text("Write a prompt first")
        page.locator("#pp-prompt textarea").fill("You are " * 400)
        page.locator("#pp-write").click()
        sync_api.expect(problem).to_contain_text("at most 256 are allowed")
        page.locator("#pp-source textarea, #pp-source input").first.fill("acme/nothing-here")
        page.locator("#pp-add").click()
        sync_api.expect(wrong).to_contain_text("acme/nothing-here")
        sync_api.expect(problem).to_have_count(0)  # it was about the request before


def test_eight_visitors_at_once_get_their_own_answers(browser, server):
    tox, bias, harm = PATCHES
    stacks = [[], [tox], [harm], [bias], [tox, harm], [harm, tox], [bias, tox], [tox, bias]]
    prompts = [f"{who} said that" for who in ("Anna", "Tom", "Karl", "Eva", "The nurse", "The driver", "Ben", "Lena")]
    with contextlib.ExitStack() as visitors:
        pages = [visitors.enter_context(visit(browser, server)) for _ in stacks]
        for page, prompt, labels in zip(pages, prompts, stacks, strict=True):
            tick(page, labels)
            page.locator("#pp-prompt textarea").fill(prompt)
            page.locator("#pp-blur").get_by_role("checkbox").uncheck()
        for page in pages:
            page.locator("#pp-write").click()
        for page, prompt, labels in zip(pages, prompts, stacks, strict=True):
            for side, text in zip(("base", "patched"), expected(prompt, labels), strict=True):
                sync_api.expect(page.locator(f"#pp-{side} .pp-facts")).to_contain_text("done")
                assert page.locator(f"#pp-{side} .pp-answer").text_content() == text


def test_measure_has_a_table_with_intervals_and_a_picture(browser, server):
    with visit(browser, server) as page:
        open_tab(page, "Measure")
        tick(page, PATCHES[:1], "#pp-measured")
        page.locator("#pp-measure").click()
        sync_api.expect(page.locator("#pp-result table").first).to_be_visible(timeout=120_000)
        assert re.search(r"patch.*\[0\.\d+, ", page.locator("#pp-result").text_content(), re.DOTALL)
        page.locator("#pp-picture").scroll_into_view_if_needed()
        sync_api.expect(page.locator("#pp-picture img")).to_be_visible()
        page.locator("#pp-prompts textarea").fill("\n")
        page.locator("#pp-measure").click()
        sync_api.expect(page.locator("#pp-wrong-measure-prompts")).to_contain_text("There is no prompt")


def test_inspect_shows_the_vectors_neighbours_and_the_base_they_fit(browser, server):
    with visit(browser, server) as page:
        open_tab(page, "Inspect")
        sync_api.expect(page.locator("#pp-inspected input")).to_have_value("lab:toxicity")
        page.locator("#pp-inspect").click()
        sync_api.expect(page.locator("#pp-fits")).to_contain_text("Fits lab:base, checked by its fingerprint")
        page.locator("#pp-heat").scroll_into_view_if_needed()
        sync_api.expect(page.locator("#pp-heat img")).to_be_visible()
        sync_api.expect(page.locator("#pp-nearest")).to_contain_text("Nearest tokens")
        sync_api.expect(page.get_by_role("heading", name="Limits")).to_be_visible()


def test_train_draws_the_loss_and_gives_a_patch_that_is_pushed_with_the_visitors_token(browser, server, hub, tmp_path):
    with visit(browser, server) as page:
        open_tab(page, "Train")
        page.locator("#pp-sft").get_by_role("spinbutton").fill("20")
        page.locator("#pp-train").click()
        said = page.locator("#pp-said")
        sync_api.expect(said).to_contain_text("SFT, step", timeout=120_000)
        sync_api.expect(said).to_contain_text("Done: a patch against toxicity", timeout=240_000)
        for stage in ("sft", "dpo"):
            sync_api.expect(page.locator(f"#pp-{stage}-loss canvas, #pp-{stage}-loss svg").first).to_be_visible()
        with page.expect_download() as download:
            page.locator("#pp-file a").first.click()
        download.value.save_as(tmp_path / "patch.zip")
        with zipfile.ZipFile(tmp_path / "patch.zip") as archive:
            archive.extractall(tmp_path / "patch")
        assert PolicyPatchModel.from_pretrained(load_lab_base(), tmp_path / "patch").active_patches == ["default"]
        page.get_by_role("button", name="Push it to the Hub").click()
        page.locator("#pp-repo input, #pp-repo textarea").first.fill("acme/from-the-page")
        page.locator("#pp-push").click()
        sync_api.expect(page.locator("#pp-wrong-push-token")).to_contain_text("a token with write access")
        page.locator("#pp-token input").fill(TOKEN)
        page.locator("#pp-push").click()
        sync_api.expect(page.locator("#pp-pushed")).to_contain_text("Published", timeout=60_000)
        sync_api.expect(page.locator("#pp-token input")).to_have_value("")
        kept = page.evaluate(KEPT_IN_BROWSER)
        assert TOKEN not in kept and "from-the-page" not in kept
    assert "policy_patch_config.json" in HfApi(token=TOKEN).list_repo_files("acme/from-the-page")
    assert TOKEN not in server.log.read_text()


def test_a_training_ends_when_its_visitor_says_so(browser, server):
    with visit(browser, server) as page:
        open_tab(page, "Train")
        page.locator("#pp-sft").get_by_role("spinbutton").fill("300")
        page.locator("#pp-train").click()
        said = page.locator("#pp-said")
        sync_api.expect(said).to_contain_text("SFT, step", timeout=120_000)
        page.locator("#pp-halt").click()
        sync_api.expect(said).to_have_text("Stopped.", timeout=60_000)


def test_the_page_is_there_before_the_model_is(browser, server):
    """Of a server that has just started: the page comes while nothing is loaded."""
    words = (
        "import sys; from policy_patch.ui import build_demo; build_demo(); print('modeling_llama' in str(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
