"""Reads a whole set of advisories: a file, a folder, or a dataset repository on the Hub at one commit.

A file that cannot be read stops it: the advisory left out could be the one that matters. What an advisory says is in
`advisories.py`.
"""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path, PurePosixPath

from policy_patch.errors import AdvisoryError
from policy_patch.files.documents import Fault, read_text
from policy_patch.hub.dataset_files import fetch_dataset_files
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.names import REPO_ID, split_id
from policy_patch.release.advisories import LARGEST_ADVISORY, Advisory, read_advisory

_MOST = 10_000  # files; our choice


def load_advisories(source: str | os.PathLike, options: HubOptions | None = None) -> list[Advisory]:
    """Read all advisories of a source. Of two with one id, the one changed later counts, as OSV says.

    Args:
        source (`str` or `os.PathLike`):
            A JSON file, a folder with JSON files (in folders, too), or a dataset repository on the Hub, maybe with a
            revision: `"org/advisories@main"`.
        options ([`HubOptions`], *optional*):
            Token, cache and so on.

    Raises:
        AdvisoryError: an advisory is damaged, the source holds none, or two of one id disagree.
        HubError: the Hub does not deliver them.
        MissingExtraError: `jsonschema` or `packageurl-python` is not installed.
    """
    text = os.fspath(source)
    if os.path.isdir(text):
        files = _in_folder(Path(text))
    elif os.path.isfile(text):
        files = [(f"`{text}`", Path(text))]
    else:
        repo_id, _ = split_id(text)
        if not REPO_ID.fullmatch(repo_id) or os.path.isabs(text):
            raise AdvisoryError(
                f"`{text}` is no file, no folder and no dataset on the Hub; expected advisories as JSON files, such as "
                "a folder `advisories`, or `org/advisories`."
            )
        fetched = fetch_dataset_files(text, ".json", options, largest=LARGEST_ADVISORY, most=_MOST)
        files = [(f"`{name}` of `{text}`", path) for name, path in fetched.items()]
    if not files:
        raise AdvisoryError(
            f"`{text}` holds no advisory (no file that ends with `.json`), so an audit would prove nothing."
        )
    return _newest(_read(name, path) for name, path in files)


def _in_folder(folder: Path) -> list[tuple[str, Path]]:
    found = []
    for path in sorted(folder.rglob("*.json")):
        if any(part.startswith(".") for part in PurePosixPath(path.relative_to(folder).as_posix()).parts):
            continue  # of git and the like
        found.append((f"`{path}`", path))
        if len(found) > _MOST:
            raise AdvisoryError(
                f"`{folder}` holds more than {_MOST:,} JSON files. Give the folder of the advisories alone."
            )
    return found


def _read(name: str, path: Path) -> Advisory:
    try:
        text = read_text(path, largest=LARGEST_ADVISORY)
    except Fault as fault:
        raise AdvisoryError(f"{fault.at(name)}. Nothing was audited.") from fault
    except OSError as error:
        raise AdvisoryError(f"The advisory {name} cannot be read: {error}. Nothing was audited.") from error
    return read_advisory(text, name)


def _newest(advisories: Iterable[Advisory]) -> list[Advisory]:
    found: dict[str, Advisory] = {}
    for one in advisories:
        other = found.get(one.id)
        if other is not None and other.modified == one.modified and (other.flaws, other.withdrawn) != (
            one.flaws, one.withdrawn
        ):  # fmt: skip
            raise AdvisoryError(
                f"{one.source} and {other.source} have one id and one time of change but disagree. Remove one of them; "
                "nothing was audited."
            )
        if other is None or datetime.fromisoformat(one.modified) > datetime.fromisoformat(other.modified):
            found[one.id] = one
    return list(found.values())
