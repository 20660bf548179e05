"""Whose signatures count: public keys, certificate authorities, and identities of keyless signing.

They are read and checked here; `verifying.py` uses them.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import SigningKeyError
from policy_patch.extra import import_extra

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PURPOSE = "Signing and verifying"
_LARGEST_PEM = 2**20  # bytes
_MAKE_KEYS = (
    "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem` makes a private key and "
    "`openssl ec -in key.pem -pubout -out key.pub` its public key"
)


@dataclass(frozen=True)
class TrustedKey:
    """A public key: its PEM text, the SHA-256 of that text, by which signatures name it, and where it comes from."""

    pem: bytes
    sha256: str
    source: str


@dataclass(frozen=True)
class TrustedAuthority:
    """A certificate that signatures may go back to, and where it comes from."""

    certificate: "Certificate"
    source: str


@dataclass(frozen=True)
class Identity:
    """Who signed keyless: an e-mail address or a workflow's address, as the issuer of its tokens confirms it."""

    name: str
    issuer: str


@dataclass(frozen=True)
class TrustedSigners:
    """Everybody whose signature counts. One of them is enough.

    Args:
        keys (`tuple[TrustedKey, ...]`):
            Public keys.
        authorities (`tuple[TrustedAuthority, ...]`):
            Certificate authorities.
        identities (`tuple[Identity, ...]`):
            Identities of keyless signing. They need the network.
    """

    keys: tuple[TrustedKey, ...] = ()
    authorities: tuple[TrustedAuthority, ...] = ()
    identities: tuple[Identity, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys or self.authorities or self.identities)

    def __or__(self, other: "TrustedSigners") -> "TrustedSigners":
        return TrustedSigners(
            self.keys + other.keys, self.authorities + other.authorities, self.identities + other.identities
        )


def read_signers(
    keys: Sequence[str | os.PathLike] | str | os.PathLike = (),
    certificate_authorities: Sequence[str | os.PathLike] | str | os.PathLike = (),
    identities: Sequence[Identity] = (),
) -> TrustedSigners:
    """Read public keys and certificates of authorities.

    Args:
        keys, certificate_authorities (`Sequence` of `str` or `os.PathLike`):
            Paths of PEM files, or the PEM texts themselves. A certificate among the keys is an authority's.
        identities (`Sequence[Identity]`):
            Identities of keyless signing.

    Raises:
        SigningKeyError: a file cannot be read, or holds no elliptic-curve public key or no certificate.
        MissingExtraError: the extra `signing` is not installed.
    """
    found: list[TrustedKey] = []
    authorities = [
        each for one in _listed(certificate_authorities) for each in _authorities(one, "certificate authority")
    ]
    for one in _listed(keys):
        if b"BEGIN CERTIFICATE" in read_pem(one, "public key")[0]:
            authorities += _authorities(one, "public key")
        else:
            found.append(_key(one))
    return TrustedSigners(tuple(found), tuple(authorities), tuple(identities))


def key_of(public_key: Any, source: str) -> TrustedKey:
    """Return a public key of `cryptography` as one that is trusted."""
    serialization = import_extra("cryptography.hazmat.primitives.serialization", "model-signing", "signing", PURPOSE)
    pem = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return TrustedKey(pem, hashlib.sha256(pem).hexdigest(), source)


def is_usable(public_key: Any) -> bool:
    """Whether model-signing takes a key: elliptic, on the curve P-256, P-384 or P-521."""
    return getattr(getattr(public_key, "curve", None), "name", None) in ("secp256r1", "secp384r1", "secp521r1")


def read_pem(given: str | os.PathLike, what: str) -> tuple[bytes, str]:
    """Return a PEM text and what to call it, from the text itself or from a file.

    Raises:
        SigningKeyError: the file cannot be read.
    """
    if isinstance(given, str) and given.lstrip().startswith("-----BEGIN"):
        return given.encode(), f"the given {what}"
    try:
        with open(given, "rb") as file:
            return file.read(_LARGEST_PEM), f"`{os.fspath(given)}`"
    except (OSError, TypeError, ValueError) as error:
        raise SigningKeyError(
            f"Cannot read the {what} `{given}`: {error}. Expected a PEM file or a PEM text; {_MAKE_KEYS}."
        ) from error


def _listed(given: Sequence[str | os.PathLike] | str | os.PathLike) -> list[str | os.PathLike]:
    return [given] if isinstance(given, str | os.PathLike) else list(given)


def _key(given: str | os.PathLike) -> TrustedKey:
    serialization = import_extra("cryptography.hazmat.primitives.serialization", "model-signing", "signing", PURPOSE)
    pem, source = read_pem(given, "public key")
    if b"PRIVATE KEY" in pem:
        raise SigningKeyError(f"{source} is a private key; a trusted key is public. Keep it secret; {_MAKE_KEYS}.")
    try:
        public_key = serialization.load_pem_public_key(pem)
    except Exception as error:  # cryptography has several
        raise SigningKeyError(f"{source} holds no public key in PEM ({error}); {_MAKE_KEYS}.") from error
    if not is_usable(public_key):
        raise SigningKeyError(
            f"{source} is a key of the kind {type(public_key).__name__}; model-signing takes elliptic keys on P-256, "
            f"P-384 or P-521 only. {_MAKE_KEYS}."
        )
    return key_of(public_key, source)


def _authorities(given: str | os.PathLike, what: str) -> list[TrustedAuthority]:
    x509 = import_extra("cryptography.x509", "model-signing", "signing", PURPOSE)
    pem, source = read_pem(given, what)
    try:
        return [TrustedAuthority(one, source) for one in x509.load_pem_x509_certificates(pem)]
    except Exception as error:  # cryptography has several
        raise SigningKeyError(
            f"{source} holds no certificate in PEM ({error}). Give the certificate of the authority, not its key."
        ) from error


def signer_name(certificate: "Certificate") -> str:
    """Return whom a certificate is for, in words."""
    return certificate.subject.rfc4514_string() or f"number {certificate.serial_number:x}"


def readable(path: str | os.PathLike) -> Path:
    """Return a path that can be read.

    Raises:
        SigningKeyError: it is no file that can be read.
    """
    if not (path := Path(path)).is_file():
        raise SigningKeyError(f"`{path}` is no file. Give the PEM file; {_MAKE_KEYS}.")
    return path
