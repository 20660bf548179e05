"""Every exception that policy-patch raises on purpose, in one tree.

Each class has a builtin second parent, so that `except ValueError` in existing code keeps working. No checks are here.
"""


class PolicyPatchError(Exception):
    """Parent of all errors that policy-patch raises on purpose."""


class ConfigError(PolicyPatchError, ValueError):
    """Raised when a configuration of a patch or a training has an unknown key, a wrong type or an impossible value."""


class PatchNotFoundError(PolicyPatchError, FileNotFoundError):
    """Raised when a folder holds no patch, or only half of one."""


class PatchFileError(PolicyPatchError, ValueError):
    """Raised when the tensor file of a patch is truncated, altered, not finite or does not match its configuration."""


class PatchSaveError(PolicyPatchError, OSError):
    """Raised when a patch cannot be written. The earlier patch in the folder is intact and still loads."""


class PatchNameError(PolicyPatchError, LookupError):
    """Raised when a patch name is unknown to the model, already taken or not allowed."""


class PatchConflictError(PolicyPatchError, ValueError):
    """Raised when a stack breaks a rule of one of its patches, and such stacks are refused."""


class SignatureError(PolicyPatchError, ValueError):
    """Raised when a patch is not signed by somebody who is trusted, or its files are not the signed ones."""


class SigningKeyError(SignatureError, ValueError):
    """Raised when a key or a certificate that was given cannot be used. Nothing about a patch was checked."""


class HostilePatchError(PolicyPatchError, ValueError):
    """Raised when a policy requires a scan of each patch, and the scan finds one hostile or suspicious."""


class BaseMismatchError(PolicyPatchError, ValueError):
    """Raised when a patch was made for a base other than the one it is applied to."""


class UnsupportedModelError(PolicyPatchError, TypeError):
    """Raised when a model cannot carry a patch exactly, or is no decoder-only language model at all."""


class ModelLoadError(PolicyPatchError, OSError):
    """Raised when a base, a teacher or a judge model that was named cannot be loaded."""


class PatchInputError(PolicyPatchError, ValueError):
    """Raised when the arguments of one forward or generate call cannot be combined with a patch."""


class PatchNotAppliedError(PolicyPatchError, RuntimeError):
    """Raised when a call cannot prove that the vectors of its patches took part in it. The call returns nothing."""


class PositionLimitError(PolicyPatchError, ValueError):
    """Raised when patch and text together are longer than the positions the base has learned."""


class DelegationError(PolicyPatchError, AttributeError):
    """Raised when an attribute of the base is assigned through a patched model, and the base cannot take it."""


class TokenizerRequiredError(PolicyPatchError, ValueError):
    """Raised when an operation needs the tokenizer of the base and none was given."""


class HubError(PolicyPatchError, OSError):
    """Raised when a patch cannot be fetched from the Hub or published there; the parent of the next four classes."""


class HubAccessError(HubError, PermissionError):
    """Raised when a repository does not exist, or is private, gated or read-only for the given token."""


class HubRevisionError(HubError, LookupError):
    """Raised when a repository has no such branch, tag, version or commit."""


class HubUnavailableError(HubError, ConnectionError):
    """Raised when the Hub cannot be reached, is switched off, breaks off or answers that it is overloaded."""


class DamagedDownloadError(HubError, ValueError):
    """Raised when a file arrives with another hash than the Hub states. It is not loaded and not kept in the cache."""


class PublishConflictError(PolicyPatchError, RuntimeError):
    """Raised when a push would overwrite other people's work, or a version that is already published."""


class DataError(PolicyPatchError, ValueError):
    """Raised when prompts or preference pairs are empty, miss a column or hold a wrong type."""


class EndpointError(PolicyPatchError, ConnectionError):
    """Raised when the endpoint of a served model cannot be reached, or its response is invalid."""


class TrainingError(PolicyPatchError, RuntimeError):
    """Raised when a training stage cannot start or continue."""


class CheckpointSaveError(PolicyPatchError, OSError):
    """Raised when a checkpoint, a log or a finished stage cannot be written; earlier files are intact."""


class EvaluationError(PolicyPatchError, ValueError):
    """Raised when an evaluation cannot measure what was requested."""


class PolicyRefusalError(EvaluationError, ValueError):
    """Raised when the report of a patch shows less than a policy asks for."""


class GateError(PolicyPatchError, ValueError):
    """Raised when a gate file is wrong, or a patch does not pass the gate that its release has to pass."""


class ExportError(PolicyPatchError, ValueError):
    """Raised when a patch cannot be written in the form that an engine takes, or the result is not proved equal."""


class ServingError(PolicyPatchError, RuntimeError):
    """Raised when a served model does not do what a request with a patch needs."""


class VersionRangeError(PolicyPatchError, ValueError):
    """Raised when a text is no range of versions, such as `^1.0` or `>=1.1,<2`."""


class LockError(PolicyPatchError, ValueError):
    """Raised when a lock file is damaged, or cannot be made, written or rolled back. The old one is intact."""


class AdvisedAgainstError(LockError, ValueError):
    """Raised when the versions that were asked for are named by advisories, or were rolled back from."""


class LockMismatchError(PolicyPatchError, RuntimeError):
    """Raised when something is not what a lock pins: other bytes, another version, or a commit that is gone."""


class AdvisoryError(PolicyPatchError, ValueError):
    """Raised when an advisory is damaged or incomplete. Then nothing is audited: the one left out could matter."""


class MissingExtraError(PolicyPatchError, ImportError):
    """Raised when a feature needs an optional package; the message names the extra that installs it."""
