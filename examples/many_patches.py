# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch"]
# ///
"""Generate one batch in which each row has its own patches: one patch, a stack, or no patch.

    python examples/many_patches.py

It uses the miniature base and the three patches of the package. Load your own by `model.load_patch("org/tox-patch",
"tox")`.
"""

import torch

from policy_patch import PolicyPatchModel
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer

PROMPT = "Jack thinks that Iris is"


def main() -> None:
    tokenizer = load_lab_tokenizer()
    model = PolicyPatchModel(load_lab_base())
    for risk in ("toxicity", "gender_bias", "harmfulness"):
        model.load_patch(lab_patch_folder(risk), risk, tokenizer=tokenizer)
    model.eval()

    rows = ["__base__", "toxicity", "gender_bias", "harmfulness", ("gender_bias", "toxicity")]
    inputs = tokenizer([PROMPT] * len(rows), return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, patch_names=rows, max_new_tokens=12, do_sample=False)
    for row, text in zip(rows, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
        print(f"{' + '.join([row] if isinstance(row, str) else row):28} {text!r}")


if __name__ == "__main__":
    main()
