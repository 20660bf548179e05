# /// script
# requires-python = ">=3.11"
# dependencies = ["policy-patch"]
# ///
"""A vendor publishes two versions of a patch; a customer pins a version, upgrades, and rolls back.

    hf auth login                                        # or HF_TOKEN
    python examples/publish_and_pull.py you/my-first-patch --private

It creates the repository, and publishes the toxicity patch of the package in it as versions 1.0.0 and 1.1.0.
"""

import argparse
from dataclasses import replace

from policy_patch import PolicyPatchModel
from policy_patch.hub import published_versions
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer


def main() -> None:
    args = parse()
    tokenizer = load_lab_tokenizer()

    # The vendor publishes. Each version is a commit with a tag that never moves.
    model = PolicyPatchModel.from_pretrained(load_lab_base(), lab_patch_folder("toxicity"), tokenizer=tokenizer)
    for version in ("1.0.0", "1.1.0"):
        model.patch_config["default"] = replace(model.patch_config["default"], patch_version=version)
        commit = model.push_to_hub(args.repo_id, private=args.private or None)
        print(f"published {version}: {commit.oid[:12]}")
        model.patches["default"].data.mul_(1.01)  # in place of more training

    # The customer pins a version, lists all versions, upgrades, and rolls back. The base is loaded only once.
    served = PolicyPatchModel.from_pretrained(load_lab_base(), f"{args.repo_id}@v1.0.0", tokenizer=tokenizer).eval()
    print("versions:", ", ".join(published_versions(args.repo_id)))
    served.load_patch(f"{args.repo_id}@v1.1.0", "newer", tokenizer=tokenizer)
    served.set_patch("newer")  # used from the next call on; running calls keep their patch
    print("serving:", served.patch_config["newer"].patch_version)
    served.set_patch("default")
    print("rolled back to:", served.patch_config["default"].patch_version)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo_id", help="your repository, e.g. you/my-first-patch")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    return parser.parse_args()


if __name__ == "__main__":
    main()
