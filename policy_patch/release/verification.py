"""`verify_policy_patch`: whether a patch, in a folder or on the Hub, is what somebody trusted has signed.

Loading with `trusted_keys=` or a policy asks the same of the files that it loads; this asks it of all files.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from policy_patch.errors import SigningKeyError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.opening import open_patch
from policy_patch.trust.policy_file import PatchPolicy
from policy_patch.trust.rules import rules_for
from policy_patch.trust.signers import Identity, read_signers
from policy_patch.trust.verifying import Signed

Paths = Sequence[str | os.PathLike] | str | os.PathLike


def verify_policy_patch(
    patch: str | os.PathLike,
    *,
    trusted_keys: Paths = (),
    certificate_authorities: Paths = (),
    identities: Sequence[tuple[str, str]] = (),
    policy: PatchPolicy | str | os.PathLike | None = None,
    hub: HubOptions | None = None,
) -> Signed:
    """Check that somebody trusted has signed a patch, and that its files are the signed ones, no more and no fewer.

    The card `README.md` and what git and the Hub's client write are not asked about. One of the given signers is
    enough; the signers of each policy in force have to be satisfied as well.

    Args:
        patch (`str` or `os.PathLike`):
            A folder, or a repository on the Hub, maybe with a version: `"org/tox-patch@v1.2.0"`. Of a repository,
            everything that the signature covers is fetched.
        trusted_keys (`Sequence` of `str` or `os.PathLike`):
            Public keys or certificates of authorities, as paths of PEM files or PEM texts.
        certificate_authorities (`Sequence` of `str` or `os.PathLike`):
            Certificates of authorities, in the same way.
        identities (`Sequence[tuple[str, str]]`):
            Keyless signers: name and issuer, such as `("release@acme.example", "https://accounts.google.com")`. This
            needs the network.
        policy ([`~policy_patch.trust.policy_file.PatchPolicy`], `str` or `os.PathLike`, *optional*):
            A policy or its file, whose rules about origin, signature and report hold, too.
        hub ([`~policy_patch.hub.HubOptions`], *optional*):
            Revision, token, cache and so on.

    Returns:
        [`~policy_patch.trust.verifying.Signed`]: who signed, and the signed files with their hashes.

    Raises:
        SignatureError: there is no signature, nobody trusted made it, or a file is changed, missing or not signed.
        SigningKeyError: a key cannot be read, or none is given.
        PolicyRefusalError: the report shows less than a policy asks for.
        ConfigError, PatchNotFoundError, PatchFileError, HubError: see `PolicyPatchModel.from_pretrained`.
        MissingExtraError: the extra `signing` is not installed.
    """
    signers = read_signers(trusted_keys, certificate_authorities, [Identity(*one) for one in identities])
    rules = rules_for(policy=policy)
    if signers:
        rules = replace(rules, signers=(("the given keys", signers), *rules.signers))
    if not rules.asks_for_signature:
        raise SigningKeyError(
            "Whose signature counts? Give a public key (`trusted_keys=`, `--key`), a certificate authority "
            "(`certificate_authorities=`, `--certificate_authority`), or a policy file that names one (`--policy`)."
        )
    return open_patch(patch, hub, rules=rules, whole=True).signed[0]
