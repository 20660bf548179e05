"""Reads the file `model.sig`, a Sigstore bundle of OpenSSF model-signing v1.0, in one strict form.

Each byte of it either means something, and is then compared or signed, or it is refused: the layout must be one that a
JSON writer gives, base64 the shortest one, and no field unknown. Only of keyless bundles, whose records of the public
log are Sigstore's to read, the layout is free. Whether the signature holds is decided elsewhere.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_patch.errors import SignatureError
from policy_patch.files.documents import Fault, parse_json
from policy_patch.trust.signed_files import LARGEST_SIGNATURE, MOST_FILES

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_CURVES = {"PKIX_ECDSA_P256_SHA_256", "PKIX_ECDSA_P384_SHA_384", "PKIX_ECDSA_P521_SHA_512"}
_LAYOUTS = ({"separators": (",", ":")}, {"separators": (", ", ":")}, {}, {"indent": 2}, {"indent": 4})
_MOST_CERTIFICATES = 16
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Bundle:
    """What a signature file says. Nothing of it is proved yet.

    Args:
        kind (`str`):
            `key`, `certificate` or `keyless`.
        files (`dict[str, str]`):
            Name to SHA-256 of each signed file.
        ignored (`tuple[str, ...]`):
            Paths that the signer left out.
        key_hash (`str`, *optional*):
            SHA-256 of the signer's public key in PEM, if the bundle names it.
        key (`bytes`, *optional*):
            The public key itself in PEM, if the bundle holds it (model-signing 1.0).
        certificates (`tuple[bytes, ...]`):
            The signer's certificate and those above it, in DER.
        document (`dict`):
            The whole bundle.
    """

    kind: str
    files: dict[str, str]
    ignored: tuple[str, ...]
    key_hash: str | None = None
    key: bytes | None = None
    certificates: tuple[bytes, ...] = ()
    document: dict[str, Any] = field(default_factory=dict, repr=False)


def read_bundle(content: bytes, source: str) -> Bundle:
    """Read the content of a signature file.

    Raises:
        SignatureError: it is no bundle of model-signing v1.0, or not in a form in which each byte counts.
            `source` names the file.
    """
    try:
        text, document = _document(content)
        _only(document, {"mediaType", "verificationMaterial", "dsseEnvelope"}, "the bundle")
        _equal(document.get("mediaType"), MEDIA_TYPE, "mediaType")
        files, ignored = _signed(_of(document, "dsseEnvelope", dict))
        material = _of(document, "verificationMaterial", dict)
        kinds = {"publicKey": "key", "x509CertificateChain": "certificate", "certificate": "keyless"}
        found = [kind for name, kind in kinds.items() if name in material]
        if len(found) != 1:
            raise Fault(("verificationMaterial",), f"{len(found)} of {', '.join(kinds)}; expected one")
        if found == ["keyless"]:
            return Bundle("keyless", files, ignored, document=document)
        _check_layout(text, document)
        _only(material, {"publicKey", "x509CertificateChain", "tlogEntries"}, "verificationMaterial")
        _equal(material.get("tlogEntries", []), [], "tlogEntries")
        if found == ["key"]:
            hint, key = _public_key(_of(material, "publicKey", dict))
            return Bundle("key", files, ignored, key_hash=hint, key=key, document=document)
        chain = _of(material, "x509CertificateChain", dict)
        return Bundle("certificate", files, ignored, certificates=_certificates(chain), document=document)
    except Fault as fault:
        raise SignatureError(
            f"{fault.at(source)}. It is no signature of OpenSSF model-signing v1.0, or was changed after signing: "
            "get the patch again, or ask its maker to sign it."
        ) from fault


def _document(content: bytes) -> tuple[str, dict[str, Any]]:
    if len(content) > LARGEST_SIGNATURE:
        raise Fault((), f"{len(content):,} bytes; expected at most {LARGEST_SIGNATURE:,}")
    try:
        text = content.decode()
        document = parse_json(text, allow_nan=False)
    except UnicodeDecodeError as error:
        raise Fault((), f"the byte 0x{content[error.start]:02x} at {error.start}; expected UTF-8") from error
    except json.JSONDecodeError as error:
        raise Fault((), f"no valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise Fault((), f"a {type(document).__name__}; expected an object")
    return text, document


def _check_layout(text: str, document: dict[str, Any]) -> None:
    layouts = [json.dumps(document, **layout) for layout in _LAYOUTS]
    if text not in (*layouts, *(f"{one}\n" for one in layouts[3:])):
        raise Fault((), "spaces or letters that no JSON writer puts there; each byte of a signature counts")


def _signed(envelope: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the signed files with their hashes, and the paths that the signer left out."""
    _only(envelope, {"payload", "payloadType", "signatures"}, "dsseEnvelope")
    _equal(envelope.get("payloadType"), _PAYLOAD_TYPE, "payloadType")
    signatures = _of(envelope, "signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise Fault(("signatures",), f"{len(signatures)} signatures; expected one")
    _only(signatures[0], {"sig", "keyid"}, "signatures")
    _equal(signatures[0].get("keyid") or "", "", "keyid")  # model-signing 1.0 wrote null
    decoded(signatures[0].get("sig"), "sig")
    try:
        statement = parse_json(decoded(envelope.get("payload"), "payload").decode(), allow_nan=False)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Fault(("payload",), f"no JSON ({error})") from error
    if not isinstance(statement, dict):
        raise Fault(("payload",), "no object")
    _equal(statement.get("_type"), _STATEMENT_TYPE, "_type")
    _equal(statement.get("predicateType"), _PREDICATE_TYPE, "predicateType")
    predicate = _of(statement, "predicate", dict)
    serialization = _of(predicate, "serialization", dict)
    _equal(serialization.get("method"), "files", "method")
    _equal(serialization.get("hash_type"), "sha256", "hash_type")
    ignored = serialization.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise Fault(("ignore_paths",), "no list of paths")
    return _resources(_of(predicate, "resources", list)), tuple(ignored)


def _resources(resources: list[Any]) -> dict[str, str]:
    files: dict[str, str] = {}
    for position, one in enumerate(resources):
        path = ("resources", position)
        if not isinstance(one, dict) or not isinstance(name := one.get("name"), str):
            raise Fault(path, "no name")
        digest = one.get("digest")
        if one.get("algorithm") != "sha256" or not isinstance(digest, str) or not _is_sha256(digest):
            raise Fault(path, "no SHA-256")
        leads_out = name.startswith("/") or "\\" in name or {"", ".", ".."} & set(name.split("/"))
        is_one_file = name == "." and len(resources) == 1  # how model-signing 1.0 names a model that is a single file
        if name in files or (leads_out and not is_one_file):
            raise Fault(path, f"the name {name[:80]!r}, which leads out of the folder or is there twice")
        files[name] = digest
    if not 1 <= len(files) <= MOST_FILES:
        raise Fault(("resources",), f"{len(files)} files; expected 1 to {MOST_FILES}")
    return files


def _public_key(given: Mapping[str, Any]) -> tuple[str | None, bytes | None]:
    _only(given, {"hint", "rawBytes", "keyDetails"}, "publicKey")
    hint, raw = given.get("hint"), given.get("rawBytes")
    if hint is not None and not (isinstance(hint, str) and _is_sha256(hint)):
        raise Fault(("publicKey", "hint"), "no SHA-256")
    if "keyDetails" in given and given["keyDetails"] not in _CURVES:
        raise Fault(("publicKey", "keyDetails"), "an unknown kind of key")
    if hint is None and raw is None:
        raise Fault(("publicKey",), "no hint, so it does not say whose key signed")
    return hint, None if raw is None else decoded(raw, "rawBytes")


def _certificates(chain: Mapping[str, Any]) -> tuple[bytes, ...]:
    _only(chain, {"certificates"}, "x509CertificateChain")
    entries = _of(chain, "certificates", list)
    if not 1 <= len(entries) <= _MOST_CERTIFICATES or not all(isinstance(entry, dict) for entry in entries):
        raise Fault(("certificates",), f"{len(entries)} certificates; expected 1 to {_MOST_CERTIFICATES}")
    for entry in entries:
        _only(entry, {"rawBytes"}, "certificates")
    return tuple(decoded(entry.get("rawBytes"), "rawBytes") for entry in entries)


def decoded(value: Any, name: str) -> bytes:
    """Return the bytes of a base64 text, which must be the one text that a writer makes of them."""
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Fault((name,), "no base64") from error
    if not content or base64.b64encode(content).decode() != value:
        raise Fault((name,), "base64 that no writer makes")
    return content


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= _HEX


def _of(values: Mapping[str, Any], name: str, kind: type) -> Any:
    found = values.get(name)
    if not isinstance(found, kind):
        raise Fault((name,), "nothing" if found is None else f"a {type(found).__name__}; expected a {kind.__name__}")
    return found


def _only(values: Mapping[str, Any], names: set[str], where: str) -> None:
    if unknown := sorted(values.keys() - names):
        raise Fault((where,), f"the unknown field {unknown[0][:40]!r}")


def _equal(found: Any, expected: Any, name: str) -> None:
    if found != expected or type(found) is not type(expected):
        raise Fault((name,), f"{str(found)[:80]!r}; expected {expected!r}")
