"""The command `policy-patch verify`: whether a patch is what somebody trusted has signed.

`policy_patch.release.verification` decides.
"""

from typing import TYPE_CHECKING

from policy_patch.cli.console import print_json, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = "Check that a patch is what somebody you trust has signed."
DESCRIPTION = """Check the signature of a patch in a folder or on the Hub: somebody you trust has
signed it, and its files are the signed ones, no more and no fewer. The card is
not asked about. Works offline for folders. Needs the extra `signing`.

Get a maker's public key from them, not from beside the patch. To check every
patch that is loaded, name the key in a policy file (POLICY_PATCH_POLICY).

Exit codes: 0 the signature holds; 1 it does not, or there is none; 2 bad usage.

Examples:
  policy-patch verify tox-patch --key acme.pub
  policy-patch verify org/tox-patch@v1.2.0 --key acme.pub other.pub --json
  policy-patch verify org/tox-patch --certificate_authority acme-ca.pem
  policy-patch verify org/tox-patch --policy policy-patch.toml"""


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the options of the command."""
    parser.add_argument("patch", type=str, help="Folder of a patch, or a Hub id like org/tox-patch@v1.2.0.")
    parser.add_argument("--key", type=str, nargs="+", default=[], help="PEM files of public keys; one of them signed.")
    parser.add_argument(
        "--certificate_authority", type=str, nargs="+", default=[], help="PEM files of certificates of authorities."
    )
    parser.add_argument(
        "--identity", type=str | None, help="Keyless: the signer's e-mail or workflow. Needs the network."
    )
    parser.add_argument("--issuer", type=str | None, help="Keyless: who confirms the identity.")
    parser.add_argument("--revision", type=str | None, help="Branch, tag, commit or refs/pr/N. Default: main.")
    parser.add_argument("--subfolder", type=str | None, help="Folder of the repository that holds the patch.")
    parser.add_argument("--cache_dir", type=str | None, help="Cache of the Hub's client. Default: HF_HUB_CACHE.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(args: "Namespace") -> int:
    """Run the command."""
    from policy_patch.errors import ConfigError, DamagedDownloadError, EvaluationError, PatchFileError, SignatureError
    from policy_patch.hub.fetch import HubOptions
    from policy_patch.release import verify_policy_patch
    from policy_patch.trust.rules import rules_for
    from policy_patch.trust.signers import read_signers

    if (args.identity is None) != (args.issuer is None):
        raise ConfigError("`--identity` and `--issuer` belong together; give both.")
    keyless = [(args.identity, args.issuer)] if args.identity else []
    if not read_signers(args.key, args.certificate_authority) and not keyless and not rules_for().asks_for_signature:
        raise ConfigError(
            "Whose signature counts? Give `--key acme.pub`, `--certificate_authority acme-ca.pem`, or a policy file "
            "that names one (`--policy`)."
        )
    try:
        signed = verify_policy_patch(
            args.patch, trusted_keys=args.key, certificate_authorities=args.certificate_authority, identities=keyless,
            hub=HubOptions(args.revision, args.subfolder, cache_dir=args.cache_dir),
        )  # fmt: skip
    except (SignatureError, PatchFileError, ConfigError, DamagedDownloadError, EvaluationError) as error:
        # Keys and policies were read above, so a `ConfigError` is about the patch.
        if args.json:
            print_json({"patch": args.patch, "good": False, "reason": str(error)})
        else:
            say(f"policy-patch: {error}")
        return 1
    if args.json:
        print_json({"patch": args.patch, "good": True, "signer": signed.signer, "files": signed.files})
    else:
        print(f"good: {signed.signer}")
        say(f"Signed and unchanged: {', '.join(sorted(signed.files))}.")
    return 0
