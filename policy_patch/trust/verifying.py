"""Checks the signature of a patch: that somebody who is trusted signed it, and that the files are the signed ones.

OpenSSF model-signing checks the signature itself. Around it this file puts what a patch needs: our own list of files
that must be signed, certificates that are valid today, and an answer on the very bytes that are then loaded.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.config import SIGNATURE_NAME
from policy_patch.errors import SignatureError
from policy_patch.extra import import_extra
from policy_patch.trust.bundle import Bundle, read_bundle
from policy_patch.trust.signed_files import is_below, is_left_out, must_be_signed
from policy_patch.trust.signers import PURPOSE, TrustedAuthority, TrustedSigners, signer_name

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_SHOWN = 6


@dataclass(frozen=True)
class Signed:
    """A signature that holds.

    Args:
        signer (`str`):
            Who signed: `key <SHA-256 of the public key's PEM text>`, `certificate <subject>` or `identity <name>`.
        files (`dict[str, str]`):
            Name to SHA-256 of each signed file.
    """

    signer: str
    files: dict[str, str]


def check_signature(
    content: bytes | None,
    files: Mapping[str, str],
    signers: TrustedSigners,
    *,
    source: str,
    required: Sequence[str] = (),
    partial: bool = False,
) -> Signed:
    """Return what a signature says about files, if somebody trusted made it and the files are the signed ones.

    Args:
        content (`bytes`, *optional*):
            Content of the signature file; None if there is none, which is refused.
        files (`Mapping[str, str]`):
            Name to SHA-256 of each file that is there, as `hashed_folder` gives them.
        signers ([`TrustedSigners`]):
            Whose signatures count.
        source (`str`):
            The patch, for errors.
        required (`Sequence[str]`):
            Names that must be among the signed files.
        partial (`bool`, *optional*, defaults to `False`):
            Whether signed files may be missing in `files`, because they were not fetched.

    Raises:
        SignatureError: there is no signature, nobody trusted made it, or a file is changed, missing or not signed.
        MissingExtraError: the extra `signing` is not installed.
    """
    if content is None:
        raise SignatureError(
            f"{source} is not signed (it has no {SIGNATURE_NAME}), and only patches with a trusted signature are "
            "allowed here. Ask its maker to sign it (`policy-patch sign`), or do not ask for a signature."
        )
    if not signers:
        raise SignatureError(
            f"No signer is trusted, so no signature on {source} counts. Give a public key (`trusted_keys=`, "
            "`--key`), a certificate authority, or a policy file that names one."
        )
    bundle = read_bundle(content, f"{SIGNATURE_NAME} of {source}")
    _check_files(bundle, files, required, source=source, partial=partial)
    there = {name: digest for name, digest in bundle.files.items() if name in files}
    return Signed(_check_signer(bundle, content, there, signers, source), bundle.files)


def check_made(content: bytes, files: Mapping[str, str], *, source: str, required: Sequence[str]) -> Signed:
    """Check a signature that was just made, without asking whether anybody trusts its signer.

    Raises:
        SignatureError: it does not cover the files, a certificate is not valid today, or its chain is broken.
    """
    bundle = read_bundle(content, f"{SIGNATURE_NAME} of {source}")
    _check_files(bundle, files, required, source=source, partial=False)
    if bundle.kind != "certificate":
        return Signed(f"key {bundle.key_hash}" if bundle.kind == "key" else "keyless", bundle.files)
    chain = _read_chain(bundle, source)
    _check_in_order(chain, source)
    for one in chain:
        _check_valid_now(one, source)
    return Signed(f"certificate {signer_name(chain[0])}", bundle.files)


def _check_files(
    bundle: Bundle, files: Mapping[str, str], required: Sequence[str], *, source: str, partial: bool
) -> None:
    """Refuse files that are not the ones in the bundle. That the bundle is genuine is checked after it."""
    for name in sorted({*required, *filter(must_be_signed, files)}):
        if name not in bundle.files:
            raise SignatureError(
                f"The signature of {source} does not cover `{name}`, so nobody vouches for that file. Ask the maker to "
                "sign the whole patch again."
            )
    missing = [] if partial else sorted(name for name in bundle.files if name not in files and not is_left_out(name))
    if missing := missing or sorted(name for name in required if name not in files):
        raise SignatureError(
            f"{source} lacks {_listed(missing)}, which its signature covers. A file was lost or removed after "
            "signing: get the patch again from where it came from."
        )
    extra = sorted(
        name for name in files
        if name not in bundle.files and not is_left_out(name) and not is_below(name, bundle.ignored)
    )  # fmt: skip
    if extra:
        raise SignatureError(
            f"{source} holds {_listed(extra)}, which its signature does not cover. Remove what was added after "
            "signing, or get the patch again from where it came from."
        )
    changed = sorted(name for name, digest in bundle.files.items() if files.get(name, digest) != digest)
    if changed:
        raise SignatureError(
            f"{_listed(changed)} of {source} is not what was signed: expected the SHA-256 "
            f"{bundle.files[changed[0]]}, found {files[changed[0]]}. It was changed after signing or damaged: get "
            "the patch again from where it came from."
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more


def _check_signer(
    bundle: Bundle, content: bytes, files: Mapping[str, str], signers: TrustedSigners, source: str
) -> str:
    """Return who signed, if somebody trusted did."""
    if bundle.kind == "key":
        return _check_key(bundle, files, signers, source)
    if bundle.kind == "certificate":
        return _check_certificate(bundle, files, signers.authorities, source)
    return _check_identity(bundle, content, files, signers, source)


def _check_key(bundle: Bundle, files: Mapping[str, str], signers: TrustedSigners, source: str) -> str:
    if not signers.keys:
        raise SignatureError(f"{source} is signed by a key, and no public key is trusted here. {_trusted(signers)}")
    raw_hash = hashlib.sha256(bundle.key).hexdigest() if bundle.key is not None else None
    named = bundle.key_hash or raw_hash
    chosen = [key for key in signers.keys if key.sha256 == named and raw_hash in (None, named)]
    if not chosen:
        raise SignatureError(
            f"{source} is signed by the key {named[:16]}..., which is not trusted. {_trusted(signers)} If the maker "
            "has a new key, get it from them by another way than with the patch."
        )
    with _files_for_library({"key.pem": chosen[0].pem, SIGNATURE_NAME: _with_hint(bundle, chosen[0].sha256)}) as folder:
        config = _library("model_signing.verifying").Config().use_elliptic_key_verifier(public_key=folder / "key.pem")
        _run_library(config, bundle, files, folder, source)
    return f"key {chosen[0].sha256}"


def _with_hint(bundle: Bundle, sha256: str) -> bytes:
    """Return the bundle with the name of its key as model-signing 1.1 writes it; 1.0 wrote the key itself."""
    material = {"publicKey": {"hint": sha256}, "tlogEntries": []}
    return json.dumps({**bundle.document, "verificationMaterial": material}).encode()


def _check_certificate(
    bundle: Bundle, files: Mapping[str, str], authorities: Sequence[TrustedAuthority], source: str
) -> str:
    if not authorities:
        raise SignatureError(
            f"{source} is signed with a certificate, and no certificate authority is trusted here. Give its "
            "certificate: `certificate_authorities=`, `--certificate_authority`, or the policy file."
        )
    chain = _read_chain(bundle, source)
    root = _check_chain(chain, authorities, source)
    for one in (*chain, root):
        _check_valid_now(one, source)
    serialization = _library("cryptography.hazmat.primitives.serialization")
    pem = {
        "authority.pem": b"".join(one.certificate.public_bytes(serialization.Encoding.PEM) for one in authorities),
        SIGNATURE_NAME: json.dumps(bundle.document).encode(),
    }
    with _files_for_library(pem) as folder:
        config = _library("model_signing.verifying").Config()
        config.use_certificate_verifier(certificate_chain=[folder / "authority.pem"])
        _run_library(config, bundle, files, folder, source)
    return f"certificate {signer_name(chain[0])}"


def _read_chain(bundle: Bundle, source: str) -> list["Certificate"]:
    x509 = _library("cryptography.x509")
    try:
        chain = [x509.load_der_x509_certificate(one) for one in bundle.certificates]
        for one in chain:  # each part is parsed when it is asked for
            for part in ("subject", "issuer", "extensions", "not_valid_before_utc", "not_valid_after_utc"):
                getattr(one, part)
            one.public_key()
    except Exception as error:  # cryptography has several
        raise SignatureError(f"{SIGNATURE_NAME} of {source} holds no readable certificate ({error}).") from error
    return chain


def _check_in_order(chain: Sequence["Certificate"], source: str) -> None:
    for one, issuer in pairwise(chain):
        if not _is_issued_by(one, issuer):
            raise SignatureError(
                f"{SIGNATURE_NAME} of {source} has a broken chain: `{signer_name(issuer)}` did not issue "
                f"`{signer_name(one)}`. The signer gives the chain from their issuer upwards."
            )


def _check_chain(chain: Sequence["Certificate"], authorities: Sequence[TrustedAuthority], source: str) -> "Certificate":
    """Return the authority that a chain goes back to. Each certificate has to be issued by the next one."""
    _check_in_order(chain, source)
    trusted = [one.certificate for one in authorities]
    for root in trusted:
        if chain[-1] == root or _is_issued_by(chain[-1], root):
            return root
    names = ", ".join(f"`{signer_name(one)}`" for one in trusted)
    raise SignatureError(
        f"{source} is signed by `{signer_name(chain[0])}`, whose certificate goes back to "
        f"`{chain[-1].issuer.rfc4514_string()}`, which is not a trusted authority. Trusted: {names}."
    )


def _is_issued_by(certificate: "Certificate", issuer: "Certificate") -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # it tells by several exceptions why not
        return False
    return True


def _check_valid_now(certificate: "Certificate", source: str) -> None:
    """model-signing asks whether a certificate was valid when it began to be; a patch needs one that is valid today."""
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        when = f"expired on {end:%Y-%m-%d}" if now > end else f"is not valid before {begin:%Y-%m-%d}"
        raise SignatureError(
            f"The certificate `{signer_name(certificate)}` behind the signature of {source} {when}. Ask the maker to "
            "sign with a valid certificate."
        )


def _check_identity(
    bundle: Bundle, content: bytes, files: Mapping[str, str], signers: TrustedSigners, source: str
) -> str:
    if not signers.identities:
        raise SignatureError(
            f"{source} is signed keyless, and no identity is trusted here. Give `--identity` and `--issuer`. "
            f"{_trusted(signers)}"
        )
    refusals = []
    for one in signers.identities:
        with _files_for_library({SIGNATURE_NAME: content}) as folder:
            try:
                config = _library("model_signing.verifying").Config()
                config.use_sigstore_verifier(identity=one.name, oidc_issuer=one.issuer)
            except Exception as error:  # TUFError and others: no network
                raise SignatureError(
                    f"Cannot check the keyless signature of {source}: Sigstore's root of trust cannot be fetched "
                    f"({error}). Keyless signatures need the network; a key or a certificate does not."
                ) from error
            try:
                _run_library(config, bundle, files, folder, source)
            except SignatureError as error:
                refusals.append(str(error))
            else:
                return f"identity {one.name} ({one.issuer})"
    raise SignatureError(refusals[0])


def _trusted(signers: TrustedSigners) -> str:
    names = [f"the key {one.sha256[:16]}... ({one.source})" for one in signers.keys]
    names += [f"the authority `{signer_name(one.certificate)}`" for one in signers.authorities]
    names += [f"the identity {one.name}" for one in signers.identities]
    return f"Trusted: {', '.join(names)}."


def _library(module: str) -> Any:
    """Import a module of model-signing, or of what comes with it. It imports pyOpenSSL without naming it."""
    import_extra("OpenSSL", "pyOpenSSL", "signing", PURPOSE)
    return import_extra(module, "model-signing", "signing", PURPOSE)


@contextmanager
def _files_for_library(contents: Mapping[str, bytes]) -> Iterator[Path]:
    """Yield a folder of this user alone with these files: model-signing takes keys and signatures as paths only."""
    with tempfile.TemporaryDirectory(prefix="policy-patch-") as folder:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content)
        yield Path(folder)


def _run_library(config: Any, bundle: Bundle, files: Mapping[str, str], folder: Path, source: str) -> None:
    """Let model-signing check the signature, and compare the signed files with the hashes that we took."""
    config.set_hashing_config(_our_hashes({**bundle.files, **files}))
    try:
        config.verify(folder, folder / SIGNATURE_NAME)
    except Exception as error:  # ValueError, InvalidSignature, X509StoreContextError, VerificationError, ...
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise SignatureError(
            f"The signature of {source} does not hold ({reason}). {SIGNATURE_NAME} was changed, or made by somebody "
            "else than it says: get the patch again from where it came from."
        ) from error


def _our_hashes(files: Mapping[str, str]) -> Any:
    """Return hashing settings of model-signing that hash no folder, but give the hashes of what was read already."""
    hashing, manifest = _library("model_signing.hashing"), _library("model_signing.manifest")
    digest = _library("model_signing._hashing.hashing").Digest

    class OurHashes(hashing.Config):
        """Knows the files. The ignore list of the signature does not count: ours was applied already."""

        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            items = [
                manifest.FileManifestItem(path=name, digest=digest("sha256", bytes.fromhex(sha256)))
                for name, sha256 in files.items()
            ]
            kind = {"method": "files", "hash_type": "sha256", "allow_symlinks": True}
            return manifest.Manifest("patch", items, manifest.SerializationType.from_args(kind))

        def add_ignored_paths(self, *, model_path: Any, paths: Any) -> None:
            return

    return OurHashes()
