"""Tests of `hub.lock_file`: what is written is read again, and nothing else is taken for a lock."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_patch.errors import LockError
from policy_patch.hub.lock_file import Lock, LockedBase, LockedPatch, lock_from_json, read_lock

HASHES = {"policy_patch_config.json": "a" * 64, "policy_patch.safetensors": "b" * 64}
TOX = LockedPatch(
    name="tox", id="acme/tox-patch", commit="1" * 40, version="1.0.0", asked="^1.0", risk="toxicity",
    sha256={**HASHES, "model.sig": "c" * 64}, signed_by="key 0123",
)  # fmt: skip
MINE = LockedPatch(name="mine", folder="patches/mine", version="0.1.0-rc.1", sha256=HASHES)
LOCK = Lock(
    base=LockedBase(id="acme/base", commit="2" * 40, fingerprint_sha256="d" * 64),
    stack=(TOX, MINE),
    locked_at="2026-01-31T12:00:00Z",
    previous="e" * 64,
)


def changed(path: str, value) -> str:
    """Return the text of a lock with one value replaced, added or (by `...`) removed."""
    values = copy.deepcopy(LOCK.to_dict())
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = values
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(values)


def test_a_lock_is_read_as_it_was_written(tmp_path):
    (tmp_path / "policy-patch.lock").write_text(LOCK.to_json())
    assert read_lock(tmp_path / "policy-patch.lock") == LOCK
    assert LOCK.same_content(lock_from_json(changed("previous", None), "it")) and LOCK.names == ["tox", "mine"]
    assert not LOCK.same_content(lock_from_json(changed("stack.0.commit", "3" * 40), "it"))
    assert TOX.source == "acme/tox-patch@v1.0.0" and MINE.source == "patches/mine"


@given(
    st.builds(
        Lock,
        base=st.builds(LockedBase, id=st.sampled_from(["acme/base", "a.b/c-d"]), commit=st.none() | st.just("0" * 40)),
        stack=st.lists(st.sampled_from([TOX, MINE]), min_size=1, max_size=2, unique_by=lambda one: one.name).map(tuple),
        locked_at=st.datetimes().map(lambda time: time.strftime("2026-%m-%dT%H:%M:%SZ")),
        previous=st.none() | st.just("f" * 64),
    )
)
def test_every_lock_comes_back(lock):
    assert lock_from_json(lock.to_json(), "it") == lock


WRONG = [
    ("lock_version", 0, "expected a whole number from 1"),
    ("lock_version", True, "expected a whole number from 1"),
    ("lock_version", 10**40, "beyond 64 bits"),
    ("lock_version", 2, "upgrade policy-patch"),
    ("locked_at", "yesterday", "expected a time"),
    ("locked_at", ..., "expected a time"),
    ("previous", "e" * 63, "expected a SHA-256"),
    ("more", 1, "an unknown key"),
    ("base", [], "it is a list; expected an object"),
    ("base.id", "", "expected a text"),
    ("base.id", "x" * 5000, "expected a text"),
    ("base.id", "../base", "not the name of a repository"),
    ("base.commit", "v1.0.0", "40 hexadecimal digits"),
    ("base.revision", "main", "an unknown key"),
    ("stack", [], "1 to 256 patches"),
    ("stack", [TOX.__dict__] * 300, "1 to 256 patches"),
    ("stack", {}, "1 to 256 patches"),
    ("stack.0.commit", "v1.0.0", r"expected 40 hexadecimal digits \(tags move\)"),
    ("stack.0.commit", "A" * 40, "40 hexadecimal digits"),
    ("stack.0.commit", ..., "expected `id` with `commit`"),
    ("stack.0.folder", "x", "expected `id` with `commit`, or `folder` alone"),
    ("stack.0.id", ..., "expected `id` with `commit`"),
    ("stack.0.id", "../../etc/passwd", "not the name of a repository"),
    ("stack.0.id", "../etc", "not the name of a repository"),
    ("stack.0.id", "acme/tox\nx", "expected a text"),
    ("stack.0.subfolder", "../../x", "leads out of the repository"),
    ("stack.0.subfolder", "/etc", "leads out of the repository"),
    ("stack.0.name", "../tox", "expected letters"),
    ("stack.0.name", "mine", "two patches have one name"),
    ("stack.0.version", "1.0", "a semantic version"),
    ("stack.0.version", "9" * 5000, "a semantic version"),
    ("stack.0.asked", ..., "expected a text"),
    ("stack.0.sha256", {}, "expected the hashes of policy_patch_config.json and policy_patch.safetensors"),
    ("stack.0.sha256", {**HASHES, "../../.bashrc": "a" * 64}, "is no file of a patch"),
    ("stack.0.sha256", {**HASHES, "/etc/passwd": "a" * 64}, "is no file of a patch"),
    ("stack.0.sha256", {**HASHES, "x/./y": "a" * 64}, "is no file of a patch"),
    ("stack.0.sha256", {**HASHES, "x\\y": "a" * 64}, "is no file of a patch"),
    ("stack.0.sha256", {**HASHES, **{str(n): "a" * 64 for n in range(1000)}}, "expected the hashes of"),
    ("stack.0.sha256", {**HASHES, "policy_patch.safetensors": "B" * 64}, "expected a SHA-256"),
    ("stack.1.signed_by", 3, "expected a text"),
    ("stack.1.version", None, "a semantic version"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), WRONG, ids=[f"{path}={str(value)[:20]}" for path, value, _ in WRONG]
)
def test_what_no_lock_may_hold_is_refused_with_its_place(path, value, message):
    with pytest.raises(LockError, match=message):
        lock_from_json(changed(path, value), "it")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 10**5, b'{"lock_version": 1, "lock_version": 1}', b"x" * 2_000_000,
     b'{"lock_version": 1e999}', b'{"lock_version": NaN}'],
    ids=range(10),
)  # fmt: skip
def test_other_files_are_no_locks(tmp_path, content):
    (tmp_path / "policy-patch.lock").write_bytes(content)
    with pytest.raises(LockError, match=r"policy-patch\.lock") as error:
        read_lock(tmp_path / "policy-patch.lock")
    assert len(str(error.value)) < 1000


def test_each_single_byte_of_a_lock_counts_or_is_blank():
    text = LOCK.to_json()
    for place in range(0, len(text), 3):
        other = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        try:
            found = lock_from_json(other, "it")
        except LockError:
            continue
        assert found != LOCK or text[place].isspace() or other[place].isspace()


def test_no_lock_says_how_to_make_one(tmp_path):
    with pytest.raises(LockError, match=r"There is no lock file .*policy-patch lock org/tox-patch --lock"):
        read_lock(tmp_path / "policy-patch.lock")
    with pytest.raises(LockError, match="cannot be read"):
        read_lock(tmp_path)
