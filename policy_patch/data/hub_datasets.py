"""Datasets from the Hub: one commit of a repository, by `datasets`' own reader, with our errors.

Without a connection `datasets` 5.2 takes whatever version of a dataset it has in its cache, whichever was asked for.
Here that is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from policy_patch.data.extra import import_datasets
from policy_patch.errors import DataError, HubError, HubUnavailableError
from policy_patch.privacy.redaction import blank_error

if TYPE_CHECKING:
    from datasets import Dataset


def load_hub_dataset(
    repo_id: str,
    *,
    split: str | None = None,
    revision: str | None = None,
    config_name: str | None = None,
    token: str | bool | None = None,
) -> "Dataset":
    """Return one split of a dataset repository, at one commit.

    Args:
        repo_id (`str`):
            The repository: `"org/pairs"`.
        split (`str`, *optional*):
            Name of a split, or a part of one (`"train[:100]"`). Defaults to `train`, or to the only one there is.
        revision (`str`, *optional*):
            Branch, tag or commit. Defaults to the main branch.
        config_name (`str`, *optional*):
            Which part of a repository that holds several datasets ("subsets").
        token (`str` or `bool`, *optional*):
            Access token; `False` sends none. Defaults to the stored one, or `HF_TOKEN`.

    Raises:
        HubAccessError, HubRevisionError, HubUnavailableError, HubError: the Hub does not give it.
        DataError: it holds no such split or subset, or files that cannot be read.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = import_datasets()
    from huggingface_hub import constants

    from policy_patch.hub.errors import hub_errors
    from policy_patch.hub.fetch import hub_api

    with hub_errors(repo_id, revision, doing="get the dataset", repo_type="dataset"):
        commit = hub_api(token).resolve_revision(
            repo_id, repo_type="dataset", revision=revision, local_files_only=constants.HF_HUB_OFFLINE
        ).resolved  # fmt: skip
        with _reading_errors(repo_id, token):
            builder = datasets.load_dataset_builder(repo_id, name=config_name, revision=commit, token=token)
            if builder.hash != commit:
                raise HubUnavailableError(
                    f"Cannot get the dataset `{repo_id}` at {commit[:12]}: the Hub was not reached, and the newest "
                    f"version in the cache is another one ({builder.hash[:12]}). Check the connection and try again."
                )
            builder.download_and_prepare()
            return builder.as_dataset(split=_split(builder, split, repo_id))


def _split(builder: Any, split: str | None, repo_id: str) -> str:
    there = list(builder.info.splits or {})
    chosen = split or ("train" if "train" in there else there[0] if len(there) == 1 else None)
    if chosen is None or chosen.partition("[")[0] not in there:
        asked = f"`split={split!r}`" if split else "no `split`, and none is called train"
        raise DataError(f"The dataset `{repo_id}` has the splits {there}; given: {asked}. Give one of them as `split`.")
    return chosen


@contextmanager
def _reading_errors(repo_id: str, token: str | bool | None) -> Iterator[None]:
    """Within the context, what `datasets` says of a dataset's content becomes a [`DataError`]."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        yield
    except (DataError, HubError):
        raise
    except DatasetNotFoundError as error:  # the repository is there, so it is gated; `datasets` drops the cause
        from policy_patch.hub.fetch import hub_api

        hub_api(token).auth_check(repo_id, repo_type="dataset")
        blank_error(error)
        raise DataError(f"Cannot read the dataset `{repo_id}`: {error}") from error
    except (DatasetsError, ValueError, NotImplementedError) as error:
        full = _cause(error, OSError)
        if full is not None:  # of the disk, or of the connection: the Hub's errors have the words
            raise full from error
        blank_error(error)
        raise DataError(f"Cannot read the dataset `{repo_id}`: {_words(error)}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise DataError(
            f"The dataset `{repo_id}` is made by a script of its own, which is not run. Ask for one in parquet."
        ) from error


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not (isinstance(error, kind) and getattr(error, "errno", None)):
        error = error.__cause__
    return error


def _words(error: BaseException) -> str:
    """Return what is wrong as one line; the cause says more than "an error occurred"."""
    said = f"{error} {error.__cause__ or ''}"
    return " ".join(said.split())[:600]
