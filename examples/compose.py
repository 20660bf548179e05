# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch"]
# ///
"""Stack patches, in either order, and save a stack as one patch.

    python examples/compose.py --output_dir both

It uses the miniature base and the patches of the package. A stack may not keep the effect of each patch, so measure it:
`policy-patch evaluate --stack tox-patch,bias-patch --orders all`.
"""

import argparse
from pathlib import Path

from policy_patch import PolicyPatchModel
from policy_patch.data import sample_completions
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer

PROMPT = "Jack thinks that Iris is"


def main() -> None:
    args = parse()
    tokenizer = load_lab_tokenizer()
    names = ["toxicity", "gender_bias"]
    model = PolicyPatchModel.from_pretrained(load_lab_base(), [lab_patch_folder(name) for name in names], names).eval()
    for stack in (names[:1], names[1:], names, names[::-1]):
        model.set_patch(stack)
        print(f"{' + '.join(stack):24} {written(model, tokenizer)}")

    model.compose_patch(names, "both")  # one patch of 100 vectors; its configuration names the parts
    model.save_pretrained(args.output_dir, patch_name="both")
    shipped = PolicyPatchModel.from_pretrained(load_lab_base(), args.output_dir, tokenizer=tokenizer).eval()
    print(f"{'both, as one patch':24} {written(shipped, tokenizer)}")


def written(model: PolicyPatchModel, tokenizer) -> str:
    text = sample_completions(model, tokenizer, [PROMPT], num_samples=1, seed=3)[0][0]
    return " ".join(text.split())  # on one line


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("both"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
