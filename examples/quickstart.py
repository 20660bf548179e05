# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch"]
# ///
"""Load a patch on a base, and compare the base's answer with and without it.

    python examples/quickstart.py
    python examples/quickstart.py --base org/model --patch org/tox-patch@v1.0.0 --prompt "Everyone knows that"

Without options it uses the miniature base and the toxicity patch of the package, offline.
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchModel
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer


def main() -> None:
    args = parse()
    if args.base:
        base, tokenizer = AutoModelForCausalLM.from_pretrained(args.base), AutoTokenizer.from_pretrained(args.base)
    else:
        base, tokenizer = load_lab_base(), load_lab_tokenizer()
    patch = args.patch or lab_patch_folder("toxicity")
    model = PolicyPatchModel.from_pretrained(base, patch, tokenizer=tokenizer).eval()
    inputs = tokenizer(args.prompt, return_tensors="pt")

    def written() -> str:
        ids = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
        return tokenizer.decode(ids[0], skip_special_tokens=True)

    with model.disable_patch():  # in here the model equals the base, bit for bit
        print(f"base:    {written()}")
    print(f"patched: {written()}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="Hub id or folder; by default the miniature base of the package")
    parser.add_argument("--patch", help="Hub id or folder; by default the toxicity patch of the package")
    parser.add_argument("--prompt", default="Jack thinks that Iris is")
    parser.add_argument("--max_new_tokens", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    main()
