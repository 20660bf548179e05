"""Addresses of served models: what an address may contain, which part of it is shown, and where requests may go.

An address is stored with answers and in reports, so its shown form must not contain secrets. Requests are sent
elsewhere.
"""

import hashlib
import re
from urllib.parse import SplitResult, urljoin, urlsplit

from policy_patch.errors import EndpointError

KEY_VARIABLE = "OPENAI_API_KEY"

_SPEC = re.compile(r"(openai|chat):(.+?)@(https?://.+)", re.DOTALL)
_EXAMPLE = (
    "expected `openai:<model>@<address>`, for example `openai:org/model@http://localhost:8000/v1`, or `chat:` in place "
    "of `openai:`."
)
_NEXT = re.compile(r",(?=https?://)")
_PORTS = {"http": 80, "https": 443}


def split_spec(spec: str) -> tuple[str, str, str]:
    """Return kind, model and address of `openai:<model>@<address>` or `chat:<model>@<address>`.

    The address may be several, joined by commas; see [`addresses_in`].

    Raises:
        EndpointError: `spec` has another form. The error does not show the part after `@`.
    """
    named = _SPEC.fullmatch(spec)
    if named is None:
        raise EndpointError(f"`{shown_spec(spec)}` names no endpoint; {_EXAMPLE}")
    return named[1], named[2], named[3]


def shown_spec(name: str) -> str:
    """Return the name of a model as it may be shown: the address of a served model without its secret parts.

    Example:

    ```python
    >>> from policy_patch.answers.addresses import shown_spec
    >>> [shown_spec(name) for name in ("openai:org/m@https://host/v1", "openai:m@https://me:pw@host/v1", "org/m")]
    ['openai:org/m@https://host/v1', 'openai:m@...', 'org/m']

    ```
    """
    if not name.startswith(("openai:", "chat:")):
        return name
    named = _SPEC.fullmatch(name)
    before = name.partition("@")[0]
    if named is None:
        return before if before == name and "://" not in name else f"{before.partition('://')[0]}@..."
    try:
        for url in addresses_in(named[3]):
            check_address(url)
    except EndpointError:
        return f"{before}@..."
    return f"{named[1]}:{named[2]}@{','.join(map(shown_address, addresses_in(named[3])))}"


def addresses_in(urls: str) -> list[str]:
    """Return the addresses in a text: one, or several of the same model, joined by commas.

    Example:

    ```python
    >>> from policy_patch.answers.addresses import addresses_in
    >>> addresses_in("http://one:8000/v1,http://two:8000/v1")
    ['http://one:8000/v1', 'http://two:8000/v1']

    ```
    """
    return _NEXT.split(urls)


def check_address(url: str) -> None:
    """Refuse an address that could contain secrets, or that is not valid.

    Raises:
        EndpointError: the address has a user name, a password, a query or a fragment, lacks a host, or has characters
            that no address may have.
    """
    parts = _parts(url)
    found = None
    if "@" in parts.netloc or "?" in url:
        found = "a user name, a password or a query"
    elif "#" in url:
        found = "a fragment, behind `#`,"
    if found is not None:
        raise EndpointError(
            f"The address of `{parts.hostname}` has {found} in it. Give it up to `/v1` alone, and the key in "
            f"{KEY_VARIABLE}."
        )


def _parts(url: str) -> SplitResult:
    problem = None
    try:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            problem = "does not begin with `http://` or `https://` and a host"
        elif re.search(r"[\x00-\x20\x7f]", url):
            problem = "has a space or a line break in it"
        _ = parts.port
    except ValueError:  # an invalid port or IPv6 address; the error would quote it
        problem = "has a host or a port that is none"
    if problem is None:
        return parts
    raise EndpointError(f"The address of a model {problem}; {_EXAMPLE}")


def shown_address(url: str) -> str:
    """Return the part of an address that is shown and written: scheme, host, port and `/v1`.

    Any other path may contain a key, as with some gateways. It is replaced by the first digits of its hash.

    Example:

    ```python
    >>> from policy_patch.answers.addresses import shown_address
    >>> shown_address("http://localhost:8000/v1"), shown_address("https://gateway/a-key/v1")
    ('http://localhost:8000/v1', 'https://gateway/... (path be581efa)')

    ```
    """
    parts = _parts(url)
    place, path = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.rstrip("/")
    if path in ("", "/v1"):
        return place + path
    return f"{place}/... (path {hashlib.sha256(path.encode()).hexdigest()[:8]})"


def secret_path(url: str) -> str | None:
    """Return the path of an address if it must not be shown, else None."""
    path = _parts(url).path.rstrip("/")
    return None if path in ("", "/v1") else path


def redirect_elsewhere(asked: str, location: str) -> str | None:
    """Return the target of a redirect if it leads to another place than `asked`; None if it stays there.

    A redirect stays if scheme, host and port are the same, or if it goes from http to https on the same host and the
    default ports. A redirect from https to http leads to another place.
    """
    try:
        here, there = urlsplit(asked), urlsplit(urljoin(asked, location))
        ports = [part.port or _PORTS.get(part.scheme) for part in (here, there)]
    except ValueError:
        return "an address that is none"
    same_host = here.hostname == there.hostname
    if same_host and here.scheme == there.scheme and ports[0] == ports[1]:
        return None
    if same_host and (here.scheme, there.scheme) == ("http", "https") and ports == [80, 443]:
        return None
    return f"{there.scheme}://{there.netloc.rpartition('@')[2]}"
