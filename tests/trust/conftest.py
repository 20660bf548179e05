"""Fixtures of the tests of signatures: keys and certificates, made with openssl's library, and a small signed patch."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from policy_patch import PolicyPatchConfig
from policy_patch.patch.folder import write_patch_folder
from policy_patch.trust.signing import sign_policy_patch

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def write_key(path: Path, curve: ec.EllipticCurve | None = None, password: bytes | None = None):
    """Write a private key and, beside it as `.pub`, its public key. Return the private key."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
    path.write_bytes(key.private_bytes(*formats))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return key


@dataclass
class Issuer:
    """A certificate with its key, which issues others."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    path: Path


def issue(
    folder: Path, name: str, issuer: Issuer | None = None, *, is_authority: bool = False, begin=NOW - DAY, end=NOW + DAY
) -> Issuer:
    """Write `name.pem` (a certificate) and `name.key`; without an issuer it is its own."""
    key = write_key(folder / f"{name}.key")
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_authority, crl_sign=is_authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Issuer(key, certificate, path)


def key_pairs(place: Path) -> Path:
    """Return a new folder in `place` with the key pairs `ours` and `theirs`."""
    folder = place / "keys"
    folder.mkdir()
    for name in ("ours", "theirs"):
        write_key(folder / f"{name}.key")
    return folder


@pytest.fixture
def keys(tmp_path):
    return key_pairs(tmp_path)


@pytest.fixture
def patch(tmp_path):
    """A folder with a patch, a report, a result and a card."""
    folder = tmp_path / "tox-patch"
    write_patch_folder(folder, PolicyPatchConfig(risk="toxicity", patch_version="1.0.0"), torch.ones(2, 3))
    (folder / "evaluation.json").write_text('{"risk": "toxicity"}\n')
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "toxicity.yaml").write_text("- value: 0.1\n")
    (folder / "README.md").write_text("# A card\n")
    return folder


@pytest.fixture
def signed(patch, keys):
    """That folder, signed by `ours`."""
    sign_policy_patch(patch, private_key=keys / "ours.key")
    return patch


@pytest.fixture
def no_network(monkeypatch):
    """Nothing outside this machine can be reached, wherever the tests run."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
