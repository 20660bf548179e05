"""Loads one commit of a dataset repository on the Hub with the package `datasets`, and raises our errors.

Without a connection, `datasets` 5.2 loads any version of a dataset from its cache, not the requested one. Here that is
refused.
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
    """Load one split of a dataset repository at one commit.

    Args:
        repo_id (`str`):
            The repository: `"org/pairs"`.
        split (`str`, *optional*):
            Name of a split, or a part of one (`"train[:100]"`). Defaults to `train`, or to the only split.
        revision (`str`, *optional*):
            Branch, tag or commit. Defaults to the main branch.
        config_name (`str`, *optional*):
            Name of the subset, if the repository holds several datasets.
        token (`str` or `bool`, *optional*):
            Access token; `False` sends none. Defaults to `HF_TOKEN` or the stored token.

    Raises:
        HubAccessError, HubRevisionError, HubUnavailableError, HubError: the dataset cannot be fetched from the Hub.
        DataError: the dataset lacks the split or subset, or its files cannot be read.
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
    splits = list(builder.info.splits or {})
    chosen = split or ("train" if "train" in splits else splits[0] if len(splits) == 1 else None)
    if chosen is None or chosen.partition("[")[0] not in splits:
        given = f"`split={split!r}`" if split else "no `split`, and none is called train"
        raise DataError(
            f"The dataset `{repo_id}` has the splits {splits}; given: {given}. Give one of them as `split`."
        )
    return chosen


@contextmanager
def _reading_errors(repo_id: str, token: str | bool | None) -> Iterator[None]:
    """Turn the errors of `datasets` about a dataset's content into [`DataError`], within the context."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        yield
    except (DataError, HubError):
        raise
    except DatasetNotFoundError as error:  # the repository exists, so it is gated; `datasets` hides the cause
        from policy_patch.hub.fetch import hub_api

        hub_api(token).auth_check(repo_id, repo_type="dataset")
        blank_error(error)
        raise DataError(f"Cannot read the dataset `{repo_id}`: {error}") from error
    except (DatasetsError, ValueError, NotImplementedError) as error:
        full = _cause(error, OSError)
        if full is not None:  # an error of the disk or the connection, for which `hub_errors` has a message
            raise full from error
        blank_error(error)
        raise DataError(f"Cannot read the dataset `{repo_id}`: {_words(error)}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise DataError(
            f"The dataset `{repo_id}` needs its own loading script, which is not run. Use a version of it in parquet."
        ) from error


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not (isinstance(error, kind) and getattr(error, "errno", None)):
        error = error.__cause__
    return error


def _words(error: BaseException) -> str:
    """Return error and cause as one line, because `datasets` often explains the problem in the cause only."""
    said = f"{error} {error.__cause__ or ''}"
    return " ".join(said.split())[:600]
