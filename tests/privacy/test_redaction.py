"""Tests of `privacy.redaction`: what is a secret is blanked, by its name, its look or its value, and no more."""

import time
import traceback

import pytest

from policy_patch.privacy.redaction import blank_error, blanked, is_secret_name, unsendable, without_secrets

SECRETS = (
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", "hf_Abc123", "hf_jwt_eyJhbGciOi", "hf_ü", "sk-proj-abcdefgh12345678",
    "sk-ant-REDACTED", "ghp_0123456789abcdefABCD", "glpat-0123456789abcdefghij", "AKIAABCDEFGHIJKLMNOP",
    "xoxb-1234567890-abc", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "api_org_abcdefghijkl",
)  # fmt: skip
PLAIN = (
    "hf_hub_download failed", "hf_xet 1.8.0", "hf_transfer", "a task-specific risk-averse model", "org/sk-model",
    "the token (if one was sent)", "Give `token=`.", "`token=True` was given", "eos_token=</s>",
    "sha256=" + "a" * 64,
    "commit 801ebf1c4e5b8e9a95188", "`max_new_tokens=40`", "http://localhost:8000/v1", "org/model@v1.0.0",
    "policy-patch pull acme/tox-patch@1.0.0", "me@example.org", "key: value", "Basically nothing",
)  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "token '{}' is bad", "Bearer {}", "x={},y", "b'Bearer {}\\n'", "({})", "\n{}\n"]
)
def test_what_looks_like_a_secret_is_blanked_wherever_it_stands(secret, around):
    assert secret not in without_secrets(around.format(secret))


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay_as_they_are(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@host/v1", "https://***@host/v1"),
        ("https://tok@host", "https://***@host"),
        ("403 for url 'https://cdn/x?X-Amz-Signature=abc&Expires=1'", "403 for url 'https://cdn/x?***'"),
        ("see https://host/page#part.", "see https://host/page?***"),
        ('{"api_key": "abcdef"}', '{"api_key": "***"}'),
        ("hub_token=abcdef rest", "hub_token=*** rest"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: Basic ***"),
    ],
)
def test_addresses_headers_and_settings_in_texts(text, expected):
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "GOOGLE_CREDENTIALS"],
)
def test_values_of_the_environment_are_secrets_by_their_names(monkeypatch, name):
    monkeypatch.setenv(name, "of-no-known-form\n")
    assert without_secrets("it was of-no-known-form, you see") == "it was ***, you see"


@pytest.mark.parametrize(("name", "value"), [("HF_TOKEN", "abc"), ("EDITOR", "of-no-known-form"), ("SSH_KEY", "/tmp")])
def test_short_values_other_variables_and_paths_are_none(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert without_secrets(f"it was {value}, you see") == f"it was {value}, you see"


def test_a_short_one_is_a_secret_where_it_is_all_of_a_setting(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "abc")
    assert blanked({"note": "abc", "other": "abcd"}) == {"note": "***", "other": "abcd"}


def test_an_error_that_keeps_its_text_apart_is_blanked():
    error = UnicodeEncodeError("ascii", f"Bearer {TOKEN}", 7, 8, "ordinal not in range")
    blank_error(error)
    assert TOKEN not in f"{error!r}{error}{error.object}{error.args}"


def test_given_secrets_are_blanked_the_longest_first_and_as_python_quotes_them():
    assert without_secrets("abcd abc", "abc", "abcd") == "*** ***"
    assert (
        without_secrets(f"{'tök'.encode()!r} and {chr(10)!r}", "tök", None, "") == f"{'tök'.encode()!r} and {chr(10)!r}"
    )
    assert without_secrets(repr("to\nken"), "to\nken") == "'***'"


def test_settings_are_blanked_by_name_and_by_value_however_deep():
    given = {
        "hub_token": "plain", "push_to_hub_token": "plain", "token": None, "use_token": True, "seed": 3,
        "eos_token": "<|im_end|>", "model_init_kwargs": {"token": "plain", "extra": ["hf_lower", b"sk-bytes-of-it"]},
        "note": "uses hf_Abc123", "password": 1234, "nested": ({"api_key": {"a": "plain"}},),
    }  # fmt: skip
    shown = blanked(given)
    assert (
        "plain" not in str(shown) and "hf_" not in str(shown) and "1234" not in str(shown) and "sk-" not in str(shown)
    )
    assert shown["seed"] == 3 and shown["eos_token"] == "<|im_end|>" and shown["token"] is None
    assert shown["use_token"] is True and given["hub_token"] == "plain", "what was given stays as it is"


@pytest.mark.parametrize("name", ["hub_token", "token", "api-key", "wandb.api_key", "client_secret", "Authorization"])
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["eos_token", "pad_token", "max_new_tokens", "num_virtual_tokens", "tokenizer", "monkey"]
)
def test_names_of_none(name):
    assert not is_secret_name(name)


TOKEN = "hf_" + "Abc123"  # a traceback shows the lines of this file


def chain() -> BaseException:
    """Return an error with a cause, a context and one that keeps its text apart."""
    try:
        try:
            try:
                f"Bearer {TOKEN}ü".encode("ascii")
            except UnicodeEncodeError as first:
                raise KeyError(f"Bearer {TOKEN}") from first
        except KeyError:
            raise OSError(5, f"{TOKEN} and tok-plain")  # noqa: B904
    except OSError as second:
        try:
            raise ValueError(f"told {TOKEN}") from second
        except ValueError as error:
            return error


def test_an_error_and_those_behind_it_are_blanked():
    error = chain()
    blank_error(error, lambda text: without_secrets(text, "tok-plain"))
    said = "".join(traceback.format_exception(error)).replace("and tok-plain", "")
    one = error
    while one is not None:
        said += f"{one!r}{one}{one.args}"
        one = one.__cause__ or one.__context__
    assert TOKEN not in said and "tok-plain" not in said and "ü" not in said.replace("TOKEN}ü", "")
    assert "told ***" in said and "OSError: [Errno 5] *** and ***" in said, "what is no secret stays"


def test_a_circle_of_errors_ends():
    one, other = ValueError("hf_Abc123"), ValueError("hf_Abc123")
    one.__context__, other.__context__ = other, one
    blank_error(one)
    assert one.args == other.args == ("***",)


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "is empty"),
        ("abc\n", "has a line break in place 4 of 4"),
        ("a b", "has a space in place 2 of 3"),
        ("hf_ü", "has a letter that is not ASCII in place 4 of 4"),
        ("a\x00", "has a control character in place 2 of 2"),
        ("hf_alice", None),
    ],
)
def test_what_cannot_be_sent(secret, problem):
    assert unsendable(secret) == problem


@pytest.mark.parametrize(
    "piece",
    ["hf_", "a.", "-eyJ-", "http://", "x://", "Bearer ", "api_key=", "sk-", "eyJaaaaaaaa.a", "a", "@", "?", "://a"],
)
def test_a_long_text_of_others_takes_no_long_time(piece):
    text = piece * (200_000 // len(piece))
    start = time.process_time()
    without_secrets(text)
    assert time.process_time() - start < 3
