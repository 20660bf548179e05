"""Conformance with OpenSSF model-signing v1.0, without a network: bundles of other versions, and malformed ones.

The bundles are in `conformance/`. The suite itself has no licence, so its malformed cases are made here, under its
names, from a bundle of model-signing 1.1, and signed anew: each is refused for its form, not for a broken signature.
`python -m benchmarks.signing_conformance` runs all cases of a clone of the suite.
"""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from policy_patch.config import SIGNATURE_NAME
from policy_patch.errors import SignatureError
from policy_patch.trust.signed_files import hashed_folder
from policy_patch.trust.signers import read_signers
from policy_patch.trust.verifying import check_signature
from tests.trust.conftest import write_key

PLACE = Path(__file__).with_name("conformance")
PASSING = [
    f"{version}-{kind}" for version in ("v0.3.1", "v1.0.0", "v1.0.1", "v1.1.0")
    for kind in ("certificate", "elliptic-key")
]  # fmt: skip
SIGNED = "v1.1.0-elliptic-key"


def trusted(name=""):
    """Return the signer of the bundles: their authority for certificates, else their key."""
    keys = PLACE / "keys"
    return (
        read_signers([], [keys / "ca-cert.pem"])
        if "certificate" in name
        else read_signers([keys / "signing-key-pub.pem"])
    )


def checked(name, content=None, signers=None, files=None):
    """Return the files that a bundle signs, after it was checked."""
    folder = PLACE / name
    content = (folder / SIGNATURE_NAME).read_bytes() if content is None else content
    found = hashed_folder(folder, skipped=("ignore-me",)) if files is None else files
    return check_signature(content, found, signers or trusted(name), source=name).files


@pytest.mark.parametrize("name", PASSING)
def test_bundles_of_other_versions_hold(name):
    expected = {path.name for path in (PLACE / name).iterdir()} - {SIGNATURE_NAME, "ignore-me"}
    if name in ("v0.3.1-elliptic-key", "v1.0.0-elliptic-key"):
        (file,) = expected  # a model that is one file; its signature calls it `.`
        digest = hashlib.sha256((PLACE / name / file).read_bytes()).hexdigest()
        assert checked(name, files={".": digest}) == {".": digest}
        with pytest.raises(SignatureError, match="is not what was signed"):
            checked(name, files={".": "0" * 64})
    else:
        assert set(checked(name)) == expected


def test_a_bundle_before_the_standard_is_refused():
    """The one historical case of the suite that differs. The specification, section 11.2: a verifier MAY support it.

    Model-signing 0.2 listed files as subjects, under another predicate, and no list of what was left out.
    """
    with pytest.raises(
        SignatureError, match=r"https://model_signing/Digests/v0.1.*no signature of OpenSSF model-signing v1.0"
    ):
        checked("v0.2.0-certificate")


# Negative cases of the suite, by its names


def test_key_simple_wrong_key_and_key_verify_as_certificate(tmp_path):
    write_key(tmp_path / "wrong.key")
    for signers in (read_signers([tmp_path / "wrong.pub"]), trusted("certificate")):
        with pytest.raises(SignatureError, match=r"not trusted|no certificate authority is trusted"):
            checked(SIGNED, signers=signers)


def test_certificate_simple_wrong_ca(tmp_path):
    from tests.trust.conftest import issue

    other = issue(tmp_path, "other", is_authority=True)
    with pytest.raises(SignatureError, match="which is not a trusted authority"):
        checked("v1.1.0-certificate", signers=read_signers([], [other.path]))


def test_key_simple_tampered_content_extra_file_and_missing_file():
    files = hashed_folder(PLACE / SIGNED, skipped=("ignore-me",))
    assert checked(SIGNED, files=files), "the control"
    for changed, why in (
        ({**files, "signme-1": "0" * 64}, "is not what was signed"),
        ({**files, "injected": "0" * 64}, "which its signature does not cover"),
        ({"signme-1": files["signme-1"]}, "lacks `signme-2`"),
    ):
        with pytest.raises(SignatureError, match=why):
            checked(SIGNED, files=changed)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_empty_corrupted_and_truncated_bundles(length):
    content = (PLACE / SIGNED / SIGNATURE_NAME).read_bytes()[:length]
    with pytest.raises(SignatureError):
        checked(SIGNED, content)


MALFORMED = {  # name in the suite -> how it changes the statement, or (first letter `!`) the bundle
    "no-predicate": lambda one: one.pop("predicate"),
    "no-subject": lambda one: one.pop("subject"),
    "empty-resources": lambda one: one["predicate"].update(resources=[]),
    "wrong-predicate": lambda one: one.update(predicateType="https://example.org/other/v1"),
    "wrong-statement-type": lambda one: one.update(_type="https://in-toto.io/Statement/v0.1"),
    "!missing-envelope": lambda one: one.pop("dsseEnvelope"),
    "!wrong-payload-type": lambda one: one["dsseEnvelope"].update(payloadType="application/json"),
    "!wrong-mediatype": lambda one: one.update(mediaType="application/vnd.dev.sigstore.bundle.v0.1+json"),
    "!no-signature": lambda one: one["dsseEnvelope"].update(signatures=[]),
}


def made_anew(key, public, change=None, *, of_bundle=False) -> bytes:
    """Return the bundle of model-signing 1.1, changed, and signed by another key as the DSSE protocol says."""
    bundle = json.loads((PLACE / SIGNED / SIGNATURE_NAME).read_bytes())
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    if change is not None and not of_bundle:
        change(statement)
    payload, kind = json.dumps(statement).encode(), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key.sign(signed, ec.ECDSA(hashes.SHA256()))).decode()
    bundle["verificationMaterial"]["publicKey"]["hint"] = hashlib.sha256(public.read_bytes()).hexdigest()
    if change is not None and of_bundle:
        change(bundle)
    return json.dumps(bundle).encode()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bundles_with_a_good_signature_are_refused(name, tmp_path):
    key, public = write_key(tmp_path / "our.key"), tmp_path / "our.pub"
    signers = read_signers([public])
    assert checked(SIGNED, made_anew(key, public), signers), "the control: signed anew, and not changed"
    with pytest.raises(SignatureError):
        checked(SIGNED, made_anew(key, public, MALFORMED[name], of_bundle=name.startswith("!")), signers)
