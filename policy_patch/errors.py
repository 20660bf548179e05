"""Every exception that policy-patch raises on purpose, in one tree.

Each class has a builtin second parent, so `except ValueError` of existing code keeps working. There are no checks here.
"""


class PolicyPatchError(Exception):
    """Parent of all errors that policy-patch raises on purpose."""


class ConfigError(PolicyPatchError, ValueError):
    """Raised when a patch or training configuration holds an unknown key, a wrong type or an impossible value."""


class PatchNotFoundError(PolicyPatchError, FileNotFoundError):
    """Raised when a folder holds no patch, or only half of one."""


class PatchFileError(PolicyPatchError, ValueError):
    """Raised when the tensor file of a patch is truncated, altered, not finite or does not match its configuration."""


class PatchSaveError(PolicyPatchError, OSError):
    """Raised when a patch cannot be written. What was in the folder before is still there and still loads."""


class PatchNameError(PolicyPatchError, LookupError):
    """Raised when a patch name is unknown to the model, already taken or not allowed."""


class BaseMismatchError(PolicyPatchError, ValueError):
    """Raised when a patch was made for a base other than the one it is applied to."""


class UnsupportedModelError(PolicyPatchError, TypeError):
    """Raised when a model cannot carry a patch exactly, or is no decoder-only language model at all."""


class ModelLoadError(PolicyPatchError, OSError):
    """Raised when a base, a teacher or a judge model that was named cannot be loaded."""


class PatchInputError(PolicyPatchError, ValueError):
    """Raised when the arguments of one forward or generate call cannot be combined with a patch."""


class PatchNotAppliedError(PolicyPatchError, RuntimeError):
    """Raised when a call cannot prove that the vectors of its patches took part in it. Nothing of it is returned."""


class PositionLimitError(PolicyPatchError, ValueError):
    """Raised when patch and text together are longer than the positions the base has learned."""


class DelegationError(PolicyPatchError, AttributeError):
    """Raised when an attribute of the base is assigned through a patched model, and the base cannot take it."""


class TokenizerRequiredError(PolicyPatchError, ValueError):
    """Raised when an operation needs the tokenizer of the base and none was given."""


class HubError(PolicyPatchError, OSError):
    """Raised when a patch cannot be fetched from the Hub or published there; the parent of the four below."""


class HubAccessError(HubError, PermissionError):
    """Raised when a repository does not exist, or is private, gated or read-only for the given token."""


class HubRevisionError(HubError, LookupError):
    """Raised when a repository has no such branch, tag, version or commit."""


class HubUnavailableError(HubError, ConnectionError):
    """Raised when the Hub cannot be reached, is switched off, breaks off or answers that it is overloaded."""


class DamagedDownloadError(HubError, ValueError):
    """Raised when what arrived is not what the Hub says it holds. It is not loaded and does not stay in the cache."""


class PublishConflictError(PolicyPatchError, RuntimeError):
    """Raised when a push would overwrite what others published, or a version that is published already."""


class DataError(PolicyPatchError, ValueError):
    """Raised when prompts or preference pairs are empty, miss a column or hold a wrong type."""


class EndpointError(PolicyPatchError, ConnectionError):
    """Raised when a model that is served elsewhere cannot be asked, or does not answer as it should."""


class TrainingError(PolicyPatchError, RuntimeError):
    """Raised when a training stage cannot start or go on."""


class CheckpointSaveError(PolicyPatchError, OSError):
    """Raised when a checkpoint, a log or a finished stage cannot be written; what was there before is intact."""


class EvaluationError(PolicyPatchError, ValueError):
    """Raised when an evaluation is asked for something it cannot measure."""


class MissingExtraError(PolicyPatchError, ImportError):
    """Raised when a feature needs an optional package; the message names the extra that installs it."""
