"""Tests of `policy_patch.trust.verifying`: what was signed passes; any other byte, file, key or date does not."""

import base64
import contextlib
import json
import os
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME
from policy_patch.errors import SignatureError
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.trust.signed_files import hash_of, hashed_folder
from policy_patch.trust.signers import Identity, read_signers
from policy_patch.trust.signing import sign_policy_patch
from policy_patch.trust.verifying import Signed, check_signature
from tests.trust.conftest import DAY, NOW, issue, write_key

SIGNED = {TENSORS_NAME, CONFIG_NAME, "evaluation.json", ".eval_results/toxicity.yaml"}


def checked(folder: Path, *keys, **options) -> Signed:
    path = folder / SIGNATURE_NAME
    content = path.read_bytes() if path.exists() else None
    signers = read_signers(keys, options.pop("authorities", ()), options.pop("identities", ()))
    files = options.pop("files", None) or hashed_folder(folder)
    return check_signature(content, files, signers, source=f"`{folder.name}`", **options)


def resigned(folder: Path, key: Path, change) -> None:
    """Sign what `change` makes of the statement in a signature, as a signer with other software could."""
    from cryptography.hazmat.primitives import hashes, serialization

    document = json.loads((folder / SIGNATURE_NAME).read_text())
    envelope = document["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    kind = envelope["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(private.sign(signed, ec.ECDSA(hashes.SHA256()))).decode()
    (folder / SIGNATURE_NAME).write_text(json.dumps(document))


def with_root(statement) -> None:
    """Make the digest over all files fit the files of a statement again."""
    digests = b"".join(bytes.fromhex(one["digest"]) for one in statement["predicate"]["resources"])
    statement["subject"][0]["digest"]["sha256"] = hash_of(digests)


def test_a_signed_folder_is_good_and_says_who_signed(signed, keys):
    found = checked(signed, keys / "ours.pub")
    assert found.signer == f"key {hash_of((keys / 'ours.pub').read_bytes())}" and set(found.files) == SIGNED
    assert checked(signed, keys / "theirs.pub", (keys / "ours.pub").read_text()) == found, "one of several is enough"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_all_curves_of_the_standard_sign_and_verify(patch, tmp_path, curve):
    write_key(tmp_path / "a.key", curve)
    sign_policy_patch(patch, private_key=tmp_path / "a.key")
    assert checked(patch, tmp_path / "a.pub").files


def test_another_key_is_refused_and_the_error_names_both(signed, keys):
    mine, other = (hash_of((keys / f"{name}.pub").read_bytes())[:16] for name in ("ours", "theirs"))
    with pytest.raises(SignatureError, match=rf"signed by the key {mine}.* not trusted. Trusted: the key {other}"):
        checked(signed, keys / "theirs.pub")


def test_the_name_of_a_trusted_key_is_not_its_signature(signed, keys):
    """A forger signs with their own key and writes the name of ours into the bundle."""
    ours, theirs = (hash_of((keys / f"{name}.pub").read_bytes()) for name in ("ours", "theirs"))
    sign_policy_patch(signed, private_key=keys / "theirs.key")
    text = (signed / SIGNATURE_NAME).read_text()
    assert theirs in text
    (signed / SIGNATURE_NAME).write_text(text.replace(theirs, ours))
    with pytest.raises(SignatureError, match="does not hold"):
        checked(signed, keys / "ours.pub")


def test_a_folder_without_a_signature_and_a_caller_without_keys_are_refused(patch, signed, keys):
    with pytest.raises(SignatureError, match="No signer is trusted"):
        checked(signed)
    (patch / SIGNATURE_NAME).unlink()
    with pytest.raises(SignatureError, match=r"is not signed \(it has no model.sig\)"):
        checked(patch, keys / "ours.pub")


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_every_byte_of_every_signed_file_counts(signed, keys, name):
    content, files = (signed / name).read_bytes(), hashed_folder(signed)
    signature, signers = (signed / SIGNATURE_NAME).read_bytes(), read_signers(keys / "ours.pub")

    def passes(changed: bytes) -> bool:
        with contextlib.suppress(SignatureError):
            check_signature(signature, files | {name: hash_of(changed)}, signers, source="x")
            return True
        return False

    assert passes(content)
    assert not any(passes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]) for at in range(len(content)))
    assert not passes(content + b"\n") and not passes(content[:-1]) and not passes(b"")


@pytest.mark.parametrize("kind", ["key", "certificate"])
def test_every_byte_of_the_signature_counts(patch, keys, tmp_path, kind):
    """Each byte is changed, and some are taken out or doubled; those between fields, and of base64, too."""
    if kind == "key":
        sign_policy_patch(patch, private_key=keys / "ours.key")
        signers = read_signers(keys / "ours.pub")
    else:
        root, middle, leaf = chain(tmp_path)
        sign_policy_patch(patch, private_key=tmp_path / "leaf.key", certificate=leaf, certificate_chain=[middle])
        signers = read_signers((), root)
    content, files = (patch / SIGNATURE_NAME).read_bytes(), hashed_folder(patch)

    def passes(changed: bytes) -> bool:
        with contextlib.suppress(SignatureError):
            check_signature(changed, files, signers, source="x")
            return True
        return False

    assert passes(content)
    payload = re.search(rb'"payload":"[^"]*"', content)
    survivors = [
        (at, other)
        for at, byte in enumerate(content)
        for other in {bytes([byte ^ 1]), *({b"", bytes([byte]) * 2} if kind == "key" and at % 5 == 0 else ())}
        if (kind == "key" or at % 5 == 0 or not payload.start() < at < payload.end())
        and passes(content[:at] + other + content[at + 1 :])
    ]
    assert survivors == []
    assert not any(passes(one) for one in (content + b"\n", b" " + content, content * 2, b""))


def chain(folder: Path, **of_leaf):
    long = {"is_authority": True, "begin": NOW - 99 * DAY, "end": NOW + 99 * DAY}
    root = issue(folder, "root", **long)
    middle = issue(folder, "middle", root, **long)
    return root.path, middle.path, issue(folder, "leaf", middle, **of_leaf).path


def test_a_certificate_goes_back_to_a_trusted_authority(patch, tmp_path):
    root, middle, leaf = chain(tmp_path)
    sign_policy_patch(patch, private_key=tmp_path / "leaf.key", certificate=leaf, certificate_chain=[middle])
    assert checked(patch, authorities=[root]).signer == "certificate CN=leaf"
    assert checked(patch, root).signer == "certificate CN=leaf", "a certificate among the keys is an authority's"
    other = issue(tmp_path, "other", is_authority=True)
    with pytest.raises(SignatureError, match=r"signed by `CN=leaf`, .* `CN=middle|root`, .*Trusted: `CN=other`"):
        checked(patch, authorities=[other.path])
    with pytest.raises(SignatureError, match="no certificate authority is trusted here"):
        checked(patch, tmp_path / "leaf.pub")
    (tmp_path / "elsewhere").mkdir()
    namesake = issue(tmp_path / "elsewhere", "root", is_authority=True)
    with pytest.raises(SignatureError, match="not a trusted authority"):
        checked(patch, authorities=[namesake.path])


def signed_when_valid(patch: Path, folder: Path, monkeypatch, **dates) -> Path:
    """Sign with a certificate that is not valid now, as it was signed when it was."""
    from policy_patch.trust import verifying

    root, middle, leaf = chain(folder, **dates)
    with monkeypatch.context() as then:
        then.setattr(verifying, "_check_valid_now", lambda certificate, source: None)
        sign_policy_patch(patch, private_key=folder / "leaf.key", certificate=leaf, certificate_chain=[middle])
    return root


def test_an_expired_certificate_is_refused(patch, tmp_path, monkeypatch):
    """model-signing itself accepts it: it asks whether the certificate was valid when it began to be."""
    root = signed_when_valid(patch, tmp_path, monkeypatch, begin=NOW - 9 * DAY, end=NOW - 2 * DAY)
    with pytest.raises(SignatureError, match=rf"certificate `CN=leaf` .* expired on {NOW - 2 * DAY:%Y-%m-%d}"):
        checked(patch, authorities=[root])
    from model_signing import hashing, verifying

    hashes = hashing.Config().set_ignored_paths(paths=["README.md"])
    library = verifying.Config().use_certificate_verifier(certificate_chain=[root]).set_hashing_config(hashes)
    library.verify(patch, patch / SIGNATURE_NAME)


def test_a_certificate_of_tomorrow_is_refused_and_none_of_them_signs(patch, tmp_path, monkeypatch):
    root = signed_when_valid(patch, tmp_path, monkeypatch, begin=NOW + DAY, end=NOW + 2 * DAY)
    with pytest.raises(SignatureError, match=r"`CN=leaf` .* is not valid before"):
        checked(patch, authorities=[root])
    with pytest.raises(SignatureError, match="is not valid before"):
        sign_policy_patch(
            patch, private_key=tmp_path / "leaf.key", certificate=tmp_path / "leaf.pem",
            certificate_chain=[tmp_path / "middle.pem"],
        )  # fmt: skip


def test_a_missing_an_extra_and_a_changed_file_are_named(signed, keys):
    files = hashed_folder(signed)
    for name in sorted(SIGNED):
        less = {other: digest for other, digest in files.items() if other != name}
        with pytest.raises(SignatureError, match=rf"lacks `{name}`"):
            checked(signed, keys / "ours.pub", files=less)
        with pytest.raises(SignatureError, match=rf"`{name}` of .* is not what was signed"):
            checked(signed, keys / "ours.pub", files=files | {name: "0" * 64})
    for name in ("modeling.py", ".eval_results/more.yaml", ".hidden", "sub/evaluation.json"):
        with pytest.raises(SignatureError, match=rf"`{name}`"):
            checked(signed, keys / "ours.pub", files=files | {name: "0" * 64})
    (signed / "evaluation.json").unlink()
    with pytest.raises(SignatureError, match=r"lacks `evaluation.json`"):
        checked(signed, keys / "ours.pub")


def test_the_card_and_what_git_and_a_pull_write_may_change(signed, keys):
    for name in ("README.md", ".gitattributes", ".policy_patch_pull.json", ".cache/huggingface/x"):
        (signed / name).parent.mkdir(parents=True, exist_ok=True)
        (signed / name).write_text("changed")
    assert checked(signed, keys / "ours.pub")


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_no_ignore_list_of_a_signature_hides_a_file_of_the_patch(signed, keys, name):
    """A trusted signer, or a mistake of theirs, left the file out; the bundle says that it may be ignored."""

    def hide(statement) -> None:
        resources = statement["predicate"]["resources"]
        resources[:] = [one for one in resources if one["name"] != name]
        statement["predicate"]["serialization"]["ignore_paths"] += [name, name.partition("/")[0]]
        with_root(statement)

    resigned(signed, keys / "ours.key", lambda statement: None)
    assert checked(signed, keys / "ours.pub"), "the control: signed anew, nothing hidden"
    resigned(signed, keys / "ours.key", hide)
    with pytest.raises(SignatureError, match=rf"does not cover `{name}`"):
        checked(signed, keys / "ours.pub")


def test_files_that_the_signer_left_out_knowingly_may_be_there(patch, keys):
    (patch / "training_run.json").write_text("{}")
    (patch / "checkpoints").mkdir()
    (patch / "checkpoints" / "1").write_text("1")
    sign_policy_patch(patch, private_key=keys / "ours.key")
    assert set(checked(patch, keys / "ours.pub").files) == SIGNED
    (patch / "training_run_2.json").write_text("{}")
    with pytest.raises(SignatureError, match=r"`training_run_2.json`"):
        checked(patch, keys / "ours.pub")


def test_names_that_lead_out_and_statements_of_another_kind_are_refused(signed, keys):
    def named(name):
        def change(statement):
            statement["predicate"]["resources"].append({"name": name, "algorithm": "sha256", "digest": "0" * 64})
            with_root(statement)

        return change

    for name in ("../outside", "/etc/passwd", "a/../b", CONFIG_NAME, "a\\b", "", "."):
        resigned(signed, keys / "ours.key", named(name))
        with pytest.raises(SignatureError, match="leads out of the folder or is there twice"):
            checked(signed, keys / "ours.pub")
    sign_policy_patch(signed, private_key=keys / "ours.key")
    resigned(
        signed, keys / "ours.key", lambda statement: statement.update(predicateType="https://slsa.dev/provenance/v1")
    )
    with pytest.raises(SignatureError, match="predicateType"):
        checked(signed, keys / "ours.pub")


def test_links_are_followed_by_content_and_links_to_folders_are_refused(signed, keys, tmp_path):
    """As in the Hub's cache: the files of a snapshot are links."""
    (tmp_path / "blobs").mkdir()
    for name in sorted(SIGNED | {SIGNATURE_NAME}):
        os.replace(signed / name, tmp_path / "blobs" / Path(name).name)
        (signed / name).symlink_to(tmp_path / "blobs" / Path(name).name)
    assert checked(signed, keys / "ours.pub")
    (signed / CONFIG_NAME).unlink()
    (signed / CONFIG_NAME).symlink_to("/etc/hostname")
    with pytest.raises(SignatureError, match=rf"`{CONFIG_NAME}` .* is not what was signed"):
        checked(signed, keys / "ours.pub")
    (signed / "more").symlink_to(tmp_path / "blobs", target_is_directory=True)
    with pytest.raises(SignatureError, match="`more` is a link to a folder"):
        hashed_folder(signed)


def test_a_pipe_in_the_folder_is_refused_and_not_waited_for(signed):
    os.mkfifo(signed / "pipe")
    with pytest.raises(SignatureError, match="`pipe` is no file"):
        hashed_folder(signed)


def test_a_thousand_files_are_no_patch(signed):
    for number in range(101):
        (signed / f"{number}").touch()
    with pytest.raises(SignatureError, match="more than 100 files"):
        hashed_folder(signed)


def test_a_keyless_signature_cannot_be_checked_without_the_network(signed, keys, no_network):
    document = json.loads((signed / SIGNATURE_NAME).read_text())
    document["verificationMaterial"] = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}
    (signed / SIGNATURE_NAME).write_text(json.dumps(document))
    with pytest.raises(SignatureError, match="no identity is trusted here"):
        checked(signed, keys / "ours.pub")
    with pytest.raises(SignatureError, match="keyless signature of `tox-patch`: Sigstore's root of trust cannot be"):
        checked(signed, identities=[Identity("release@acme.example", "https://accounts.google.com")])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ours.key", "is a private key; a trusted key is public"),
        ("nowhere.pub", "Cannot read the public key"),
        ("text", "holds no public key in PEM"),
        ("rsa.pub", "elliptic keys on P-256"),
        ("koblitz.pub", "elliptic keys on P-256"),
    ],
)
def test_keys_that_are_none_are_refused_with_how_to_make_one(keys, given, said):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    (keys / "text").write_text("a key")
    write_key(keys / "koblitz.key", ec.SECP256K1())
    public = rsa.generate_private_key(65537, 2048).public_key()
    formats = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (keys / "rsa.pub").write_bytes(public.public_bytes(*formats))
    with pytest.raises(SignatureError, match=said) as raised:
        read_signers([keys / given])
    assert "openssl ec" in str(raised.value)
    with pytest.raises(SignatureError, match=r"holds no certificate|Cannot read"):
        read_signers((), [keys / given])


def test_the_library_agrees_on_our_signatures(signed, keys):
    """Anybody verifies them by model-signing's own command; it needs to be told of the card alone."""
    from model_signing import hashing, verifying

    hashes = hashing.Config().set_ignored_paths(paths=["README.md"])
    library = verifying.Config().use_elliptic_key_verifier(public_key=keys / "ours.pub").set_hashing_config(hashes)
    library.verify(signed, signed / SIGNATURE_NAME)
    (signed / TENSORS_NAME).write_bytes(b"changed")
    with pytest.raises(ValueError, match="mismatch"):
        library.verify(signed, signed / SIGNATURE_NAME)


def as_written_by(signature: bytes, key: bytes, writer: str) -> str:
    """Return a signature in the form of another writer of the standard."""
    document = json.loads(signature)
    if writer in ("1.0", "1.0 of no key"):
        raw = base64.b64encode(key if writer == "1.0" else key.replace(b"A", b"B", 1)).decode()
        document["verificationMaterial"] = {"publicKey": {"rawBytes": raw, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}
        document["dsseEnvelope"]["signatures"][0]["keyid"] = None
    if writer == "go":
        del document["verificationMaterial"]["tlogEntries"], document["dsseEnvelope"]["signatures"][0]["keyid"]
        return json.dumps(document, indent=2) + "\n"
    if writer == "protojson":
        return json.dumps(document, separators=(", ", ":"))
    if writer == "one space too many":
        return json.dumps(document).replace('", "', '",  "', 1)
    if writer == "a field of its own":
        document["dsseEnvelope"]["note"] = "x"
    if writer == "a key id":
        document["dsseEnvelope"]["signatures"][0]["keyid"] = "x"
    if writer == "a log":
        document["verificationMaterial"]["tlogEntries"] = [{}]
    if writer == "two signatures":
        document["dsseEnvelope"]["signatures"] *= 2
    return json.dumps(document)


@pytest.mark.parametrize("writer", ["1.0", "1.1", "go", "protojson"])
def test_the_forms_of_other_writers_are_taken(signed, keys, writer):
    content, key = (signed / SIGNATURE_NAME).read_bytes(), (keys / "ours.pub").read_bytes()
    (signed / SIGNATURE_NAME).write_text(as_written_by(content, key, writer))
    assert checked(signed, keys / "ours.pub")


@pytest.mark.parametrize(
    "writer",
    [
        "one space too many", "a field of its own", "a key id", "a log", "two signatures", "1.0 of no key",
    ],
)  # fmt: skip
def test_forms_with_bytes_that_mean_nothing_are_refused(signed, keys, writer):
    content, key = (signed / SIGNATURE_NAME).read_bytes(), (keys / "ours.pub").read_bytes()
    (signed / SIGNATURE_NAME).write_text(as_written_by(content, key, writer))
    with pytest.raises(SignatureError):
        checked(signed, keys / "ours.pub")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 5000, b'{"a": 1, "a": 2}', b" " * 2**21]
)
def test_what_is_no_bundle_is_our_error(signed, keys, content):
    (signed / SIGNATURE_NAME).write_bytes(content)
    with pytest.raises(SignatureError, match="It is no signature of OpenSSF model-signing"):
        checked(signed, keys / "ours.pub")


def test_we_take_signatures_that_the_library_made_by_itself(patch, keys):
    from model_signing import hashing, signing

    hashes = hashing.Config().set_ignored_paths(paths=["README.md", SIGNATURE_NAME])
    maker = signing.Config().use_elliptic_key_signer(private_key=keys / "ours.key").set_hashing_config(hashes)
    maker.sign(patch, patch / SIGNATURE_NAME)
    assert set(checked(patch, keys / "ours.pub").files) == SIGNED
