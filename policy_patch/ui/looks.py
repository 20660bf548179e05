"""The page's style and its one script. Gradio draws everything else.

The classes that begin with `pp-` are those of `words.py`, `results.py` and `notes.py`.
"""

STYLE = """
/* Gradio's grey texts and its orange button are too pale to read: here all texts have a contrast of at least 4.5 */
.gradio-container {--body-text-color-subdued: #52525b; --block-info-text-color: #52525b;
  --block-label-text-color: #3f3f46; --block-title-text-color: #3f3f46; --input-placeholder-color: #6b7280;
  --button-primary-background-fill: #c2410c; --button-primary-background-fill-hover: #9a3412;
  --button-primary-text-color: #ffffff}
.dark .gradio-container, .gradio-container.dark {--body-text-color-subdued: #c4c4cc; --block-info-text-color: #c4c4cc;
  --block-label-text-color: #d4d4d8; --block-title-text-color: #d4d4d8; --input-placeholder-color: #a1a1aa}
.pp-answer {white-space: pre-wrap; overflow-wrap: anywhere; min-height: 4.5em; padding: .75em; border-radius: 8px;
  border: 1px solid var(--border-color-primary); font-size: 1.05em; line-height: 1.5; unicode-bidi: plaintext}
.gradio-container textarea {unicode-bidi: plaintext}  /* each line from its own side: right for Arabic and Hebrew */
.pp-answer .pp-prompt {color: var(--body-text-color-subdued)}
.pp-answer .pp-blur {filter: blur(5px)}
.pp-badge {display: inline-block; border-radius: 999px; padding: .1em .7em; font-size: .9em; font-weight: 600}
.pp-facts {font-size: .85em; margin-top: .4em}
.pp-stack span {border: 1px solid var(--border-color-primary); border-radius: 6px; padding: .1em .5em; margin: .1em;
  display: inline-block; overflow-wrap: anywhere}
.pp-title {font-size: 1.1em; font-weight: 600; margin: 0 0 .3em; overflow-wrap: anywhere}

/* errors, below the field that caused them */
.pp-wrong, .pp-wrong * {color: #991b1b !important}
.pp-wrong { background: #fef2f2; border: 1px solid #b91c1c; border-radius: 6px; padding: .4em .7em;
  overflow-wrap: anywhere}
.dark .pp-wrong, .dark .pp-wrong * {color: #fecaca !important}
.dark .pp-wrong {background: #450a0a; border-color: #f87171}
.pp-stopped {border: 1px solid var(--border-color-primary); border-radius: 6px; padding: .4em .7em}
.pp-wrong code {font-size: .95em}

/* tables that keep their words whole: cells wrap between words, and inside a word only if it is wider than its cell */
.pp-table {width: 100%; border-collapse: collapse; margin: .3em 0 1em; font-size: .95em}
.pp-table th, .pp-table td {border: 1px solid var(--border-color-primary) !important; padding: .35em .5em !important;
  text-align: left; vertical-align: top; overflow-wrap: break-word; word-break: normal}
.pp-table th {font-weight: 600}
.pp-table tbody th {font-weight: 400}
.pp-table .pp-any {overflow-wrap: anywhere}
.pp-table .pp-whole {white-space: nowrap}
.pp-range {white-space: nowrap; color: var(--body-text-color-subdued); font-size: .9em}
.pp-chips {display: flex; flex-wrap: wrap; gap: .2em .9em}
.pp-chips span {overflow-wrap: anywhere; unicode-bidi: isolate}
.pp-small {font-size: .9em}
.pp-small ul {margin: .3em 0; padding-left: 1.3em; list-style: disc}
.pp-small li {overflow-wrap: anywhere}
.pp-sample {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .6em .8em; margin: .6em 0}
.pp-sample p {margin: .2em 0; overflow-wrap: anywhere; unicode-bidi: plaintext}
.pp-sides {display: grid; grid-template-columns: 1fr 1fr; gap: .3em 1.2em}
.pp-head {font-size: 1.15em; font-weight: 600; margin: .8em 0 .2em}
@media (max-width: 700px) {
  .pp-sides {grid-template-columns: 1fr}
  .pp-table {font-size: .9em}
  .pp-table th, .pp-table td {padding: .3em .35em !important}
}

/* code and tables of a card: nothing is cut, and no cell is one letter wide */
#pp-card pre, #pp-card code {white-space: pre-wrap; overflow-wrap: anywhere}
#pp-card table {display: block; overflow-x: auto; border: none}
#pp-card th, #pp-card td {overflow-wrap: break-word; word-break: normal}
#pp-card table:not(:has(tr > :nth-child(3))) td:nth-child(2) {overflow-wrap: anywhere}

/* keyboards: what has the focus is seen in both themes */
.gradio-container :is(button, a, summary, [role=tab], [tabindex], input, textarea, select):focus-visible {
  outline: 3px solid #1d4ed8 !important; outline-offset: 1px !important; transition: none !important}
.dark .gradio-container :is(button, a, summary, [role=tab], [tabindex], input, textarea, select):focus-visible,
.gradio-container.dark :is(button, a, summary, [role=tab], [tabindex], input, textarea, select):focus-visible {
  outline-color: #93c5fd !important}
.gradio-container :is(textarea, input:not([type=checkbox], [type=range])):focus-visible {
  outline-offset: -3px !important}
"""

# Ctrl+Enter (on a Mac also Cmd+Enter) in a field with several lines presses the button of its tab.
SCRIPT = """() => {
  const buttons = {"pp-prompt": "pp-write", "pp-prompts": "pp-measure"};
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const field = Object.keys(buttons).find((id) => event.target.closest?.("#" + id));
    if (!field) return;
    event.preventDefault();
    setTimeout(() => document.getElementById(buttons[field])?.click());
  });
}"""

# A message may have appeared below a field that is out of sight.
TO_THE_NOTE = """() => {
  setTimeout(() => [...document.querySelectorAll(".pp-wrong")].find((one) => one.offsetParent)
    ?.scrollIntoView({block: "nearest"}), 100);
}"""

# The server sends nothing more about an answer that was stopped, so the browser says it, after what is on its way.
SAY_STOPPED = """() => {
  setTimeout(() => document.querySelectorAll(".pp-facts").forEach((one) => {
    if (one.textContent.endsWith("writing")) one.lastChild.textContent = one.lastChild.textContent.replace(
      "writing", "stopped");
  }), 700);
}"""
