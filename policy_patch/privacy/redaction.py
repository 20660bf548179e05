"""Finds secrets in texts, by their name or their form, and blanks them before a text is shown or stored.

This file defines what counts as a secret; the callers decide what is written where.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

BLANK = "***"

_SHORTEST = 6  # characters of an environment variable's value; shorter ones would blank half of every text
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:token|secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|private|secret|admin)[_-]?key"
    r"|key|auth|authorization|bearer|cookie)$",
    re.IGNORECASE,
)
# Settings of trainers and tokenizers that name a token of the vocabulary.
_OF_A_VOCABULARY = re.compile(r"(?:^|_)(?:[be]os|pad|unk|sep|cls|mask|image|audio|video|stop|special)_token$")
_ENVIRONMENT_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|_KEY|CREDENTIALS?)$", re.IGNORECASE)
# The forms of secrets of common services. A word with `hf_` is a Hub token if it holds a digit, a capital or another
# character that names in code lack. Repeats are bounded, so that untrusted texts are searched in linear time.
_LOOKS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    hf_(?=[^\s"'`]{0,200}[^a-z_\s"'`.,;:()\[\]{}<>\\/-])[^\s"'`,;()\[\]{}<>]+
    | (?:sk|rk|pk)-[A-Za-z0-9_-]{8,}
    | api_org_[A-Za-z0-9]{8,}
    | gh[opsru]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w-]{16,} | xox[abeprs]-[\w-]{8,}
    | A(?:KI|SI)A[0-9A-Z]{16} | AIza[\w-]{30,}
    | eyJ[\w-]{8,2000}\.[\w-]{1,4000}\.[\w-]*
    )""",
    re.VERBOSE,
)
_WHOLE_VALUE = re.compile(r"(?:hf_|sk-|api_org_)\S+")
_AFTER_A_NAME = re.compile(
    r"""((?:hub|access|auth|api|secret|admin)[_-](?:token|key)|password|passwd|client_secret)
    (["']?\s*[=:]\s*["']?)(?!None\b|True\b|False\b|null\b)([^\s"'`,;&()\[\]{}]{4,})""",
    re.IGNORECASE | re.VERBOSE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[^\s\"',;)\]}]+", re.IGNORECASE)
_USER_OF_A_URL = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/?#@\"'`]{1,2000}@", re.IGNORECASE)
_QUERY_OF_A_URL = re.compile(r"(\bhttps?://[^\s?#\"'`<>]{0,2000})[?#][^\s\"'`<>)]+", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Return whether the value of a setting with this name is a secret: `hub_token` is, `eos_token` is not.

    Example:

    ```python
    >>> from policy_patch.privacy.redaction import is_secret_name
    >>> [name for name in ("hub_token", "OPENAI_API_KEY", "eos_token", "max_new_tokens") if is_secret_name(name)]
    ['hub_token', 'OPENAI_API_KEY']

    ```
    """
    return bool(_SECRET_NAME.search(name)) and not _OF_A_VOCABULARY.search(name)


def without_secrets(text: str, *known: str | None) -> str:
    """Return a text with `***` in place of each secret in it.

    Blanked are: the secrets in `known`; the values of environment variables whose names end with TOKEN, KEY, SECRET,
    PASSWORD or CREDENTIALS; words in the form of a token or key of a common service; the word after `Bearer`; user
    names, passwords, queries and fragments in addresses.

    Args:
        text (`str`):
            Any text.
        known (`str`, *optional*):
            Secrets in use, such as the token that was sent.

    Example:

    ```python
    >>> from policy_patch.privacy.redaction import without_secrets
    >>> without_secrets("401 for https://me:pw@host/v1?key=1 with Bearer hf_Abc123")
    '401 for https://***@host/v1?*** with Bearer ***'

    ```
    """
    secrets = {secret for secret in known if secret and len(secret) >= 3} | set(_of_the_environment())
    if secrets:  # longest first: one may be the start of another
        longest_first = sorted(secrets, key=len, reverse=True)
        forms = dict.fromkeys(form for secret in longest_first for form in (secret, repr(secret)[1:-1]))
        text = re.sub("|".join(re.escape(form) for form in forms), BLANK, text)
    text = _BEARER.sub(rf"\1 {BLANK}", text)
    text = _USER_OF_A_URL.sub(rf"\1{BLANK}@", text)
    text = _QUERY_OF_A_URL.sub(rf"\1?{BLANK}", text)
    text = _AFTER_A_NAME.sub(rf"\1\2{BLANK}", text)
    return _LOOKS.sub(BLANK, text)


def blanked(value: Any, name: str = "") -> Any:
    """Return settings with `***` in place of each secret, at any depth, so that they can be written or shown.

    Args:
        value (`Any`):
            A value, or mappings and lists of values. It is not changed.
        name (`str`, *optional*):
            The name of the setting.

    Example:

    ```python
    >>> from policy_patch.privacy.redaction import blanked
    >>> blanked({"hub_token": "abc", "model_init_kwargs": {"token": "abc"}, "eos_token": "</s>"})
    {'hub_token': '***', 'model_init_kwargs': {'token': '***'}, 'eos_token': '</s>'}

    ```
    """
    if is_secret_name(name) and value is not None and not isinstance(value, bool):
        return BLANK
    if isinstance(value, Mapping):
        return {key: blanked(entry, str(key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [blanked(entry) for entry in value]
    if isinstance(value, bytes):
        return blanked(value.decode(errors="replace"))
    if not isinstance(value, str):
        return value
    word = value.strip()
    is_secret = _WHOLE_VALUE.fullmatch(word) or (len(word) >= 3 and word in _of_the_environment(shortest=3))
    return BLANK if is_secret else without_secrets(value)


def blank_error(error: BaseException, clean: Callable[[str], str] = without_secrets) -> None:
    """Blank the secrets in everything that a traceback prints of an error: its text and the texts of its causes.

    Args:
        error (`BaseException`):
            Its arguments are changed in place. A cause whose text cannot be changed is removed from the chain.
        clean (`Callable[[str], str]`, *optional*):
            Returns a text without its secrets. Defaults to [`without_secrets`].
    """
    _clean_arguments(error, clean)
    seen, todo = {id(error)}, [error]
    while todo:
        one = todo.pop()
        for link in ("__cause__", "__context__"):
            behind = getattr(one, link)
            if behind is None or id(behind) in seen:
                continue
            _clean_arguments(behind, clean)
            if isinstance(behind, UnicodeError) or clean(str(behind)) != str(behind):  # it stores its object apart
                setattr(one, link, None)
                continue
            seen.add(id(behind))
            todo.append(behind)


def _clean_arguments(error: BaseException, clean: Callable[[str], str]) -> None:
    if any(isinstance(arg, str) and clean(arg) != arg for arg in error.args):
        error.args = tuple(clean(arg) if isinstance(arg, str) else arg for arg in error.args)
    shown_apart: tuple[str, ...] = ()  # attributes that are shown in place of the arguments
    if isinstance(error, OSError):
        shown_apart = ("strerror", "filename", "filename2")
    elif isinstance(error, UnicodeError):
        shown_apart = ("object",)
    for name in shown_apart:
        value = getattr(error, name, None)
        if isinstance(value, str) and clean(value) != value:
            setattr(error, name, clean(value))


def sent_secrets(error: BaseException) -> list[str]:
    """Return the `Authorization` headers of the requests that an error and its causes belong to."""
    found, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        request = getattr(getattr(error, "response", None), "request", None) or _request_of(error)
        header = request.headers.get("authorization", "") if hasattr(request, "headers") else ""
        found += [header.partition(" ")[2].strip()] if " " in header else []
        error = error.__cause__ or error.__context__
    return [secret for secret in found if secret]


def unsendable(secret: str) -> str | None:
    """Return in words why a secret cannot be sent in a header, without quoting it; None if it can."""
    if not secret:
        return "is empty"
    for place, char in enumerate(secret, 1):
        if not "!" <= char <= "~":
            if char in "\r\n":
                kind = "a line break"
            elif char.isspace():
                kind = "a space"
            else:
                kind = "a letter that is not ASCII" if char > "~" else "a control character"
            return f"has {kind} in place {place} of {len(secret)}"
    return None


def _request_of(error: BaseException) -> Any:
    try:
        return getattr(error, "request", None)
    except RuntimeError:  # raised by httpx's errors if there was no request
        return None


def _of_the_environment(shortest: int = _SHORTEST) -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value.strip()) >= shortest and _ENVIRONMENT_NAME.search(name) and not os.path.exists(value):
            yield value.strip()
