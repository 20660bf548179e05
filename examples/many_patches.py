# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch"]
# ///
"""One batch, a patch of its own for each row: some behind one patch, one behind a stack, one behind none.

    python examples/many_patches.py

The patches are untrained, each the sentence it starts from, on the miniature base of the package; load yours by
`model.load_patch("org/tox-patch", "tox")`.
"""

import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.lab import LAB_INIT_TEXTS, load_lab_base, load_lab_tokenizer

PROMPT = "You are"


def main() -> None:
    tokenizer = load_lab_tokenizer()
    model = PolicyPatchModel(load_lab_base())
    for risk, text in LAB_INIT_TEXTS.items():
        model.add_patch(risk, PolicyPatchConfig(risk=risk, init_text=text, num_virtual_tokens=30), tokenizer=tokenizer)
    model.eval()

    rows = ["__base__", "toxicity", "gender_bias", "harmfulness", ("gender_bias", "toxicity")]
    inputs = tokenizer([PROMPT] * len(rows), return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, patch_names=rows, max_new_tokens=12, do_sample=False)
    for row, text in zip(rows, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
        print(f"{' + '.join([row] if isinstance(row, str) else row):28} {text!r}")


if __name__ == "__main__":
    main()
