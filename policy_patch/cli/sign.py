"""The command `policy-patch sign`: signs the patch in a folder with a key, a certificate, or keyless.

`policy_patch.trust.signing` decides what is signed.
"""

import os
from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

PASSWORD_VARIABLE = "POLICY_PATCH_KEY_PASSWORD"
HELP = "Sign the patch in a folder, so that others can tell that it is yours."
DESCRIPTION = """Sign the patch in a folder: a file model.sig over its configuration, vectors,
report and results, by OpenSSF model-signing. The card is left out, because
people and the Hub edit it. Needs the extra `signing`. A key's password is read
from POLICY_PATCH_KEY_PASSWORD. Push after signing, or sign as you push
(`policy-patch push --sign`), which signs what is published.

Exit codes: 0 signed; 1 the folder holds what no signature can cover; 2 the key
cannot be used, or bad usage.

Examples:
  policy-patch sign tox-patch --key key.pem
  policy-patch sign tox-patch --key key.pem --certificate me.pem --chain intermediate.pem
  policy-patch sign tox-patch --keyless"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("folder", type=str, help="Folder of a patch.")
    parser.add_argument("--key", type=str | None, help="PEM file of an elliptic-curve private key.")
    parser.add_argument("--certificate", type=str | None, help="PEM file of the key's certificate.")
    parser.add_argument(
        "--chain", type=str, nargs="+", default=[], help="PEM files of the certificates above it, the issuer's first."
    )
    parser.add_argument(
        "--keyless", action="store_true", help="Sign by Sigstore, over the network, as the CI's identity."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import SigningKeyError
    from policy_patch.lab.checkpoints import lab_patch
    from policy_patch.release import sign_policy_patch

    if (args.key is None) != args.keyless:
        raise SigningKeyError("Give the key that signs (`--key key.pem`), or `--keyless`; one of the two.")
    if lab_patch(args.folder) is not None:
        raise SigningKeyError(
            f"`{args.folder}` is part of the package, and its folder stays as it is. To sign what you publish of it: "
            f"`policy-patch push {args.folder} org/patch --sign {args.key or 'key.pem'}`."
        )
    signed = sign_policy_patch(
        args.folder,
        private_key=args.key,
        certificate=args.certificate,
        certificate_chain=args.chain,
        password=os.environ.get(PASSWORD_VARIABLE),
    )
    if args.json:
        print_json({"folder": args.folder, "signer": signed.signer, "files": signed.files})
    else:
        print(signed.signer)
        say(f"Signed {', '.join(sorted(signed.files))} in {args.folder}: model.sig.")
    return 0
