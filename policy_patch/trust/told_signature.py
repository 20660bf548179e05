"""What a signature file says about itself, for people who look at a patch. Nobody is trusted here, and nothing proved.

Whether a signature holds is decided in `verifying.py`.
"""

from collections.abc import Mapping

from policy_patch.errors import SignatureError
from policy_patch.trust.bundle import Bundle, read_bundle
from policy_patch.trust.signed_files import must_be_signed


def told_signature(content: bytes | None, files: Mapping[str, str], source: str) -> dict[str, str | None]:
    """Return what a signature file says, as plain values.

    Args:
        content (`bytes`, *optional*):
            Content of the signature file; None if there is none.
        files (`Mapping[str, str]`):
            Name to SHA-256 of each file of the patch that was read.
        source (`str`):
            The patch, for messages.

    Returns:
        `dict[str, str | None]`: `status`, one of `"unsigned"`, `"unverified"` (it names a signer and covers these
        files; whether the signer made it was not checked), `"changed"` (a file is not the one that it covers) and
        `"damaged"` (it cannot be read); `signer`, as the file says, None if it names none; and `told`, all in words.
    """
    if content is None:
        return {"status": "unsigned", "signer": None, "told": "none: nobody vouches for these files"}
    try:
        bundle = read_bundle(content, f"the signature of {source}")
    except SignatureError as error:
        return {"status": "damaged", "signer": None, "told": f"not readable: {error}"}
    signer = _signer(bundle)
    changed = sorted(
        name for name, digest in files.items()
        if bundle.files.get(name, digest) != digest or (name not in bundle.files and must_be_signed(name))
    )  # fmt: skip
    if changed:
        told = f"by {signer}, but it does not cover {', '.join(changed)} as it is here"
        return {"status": "changed", "signer": signer, "told": told}
    return {"status": "unverified", "signer": signer, "told": f"says that it is by {signer}; not verified"}


def _signer(bundle: Bundle) -> str:
    """Return whom a signature names. A key may be given by its hash or whole."""
    if bundle.kind == "keyless":
        return "somebody whom Sigstore confirmed"
    if bundle.kind == "key":
        return f"the key {bundle.key_hash}" if bundle.key_hash else "a key that it does not name by its hash"
    return f"the holder of a certificate ({len(bundle.certificates)} in its chain)"
