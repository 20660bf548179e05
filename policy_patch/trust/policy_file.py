"""`PatchPolicy`: what an organisation asks of the patches that it runs, read from `policy-patch.toml`.

It is named by `policy=`, by `--policy`, or by the variable POLICY_PATCH_POLICY, for this process and those it starts.
`policy_patch.hub.opening` holds every patch that is loaded to it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from policy_patch.errors import ConfigError
from policy_patch.files.documents import Fault, parse_toml, read_text
from policy_patch.near_names import did_you_mean
from policy_patch.trust.signers import Identity, TrustedSigners, read_signers

POLICY_NAME = "policy-patch.toml"
POLICY_VARIABLE = "POLICY_PATCH_POLICY"
_LARGEST_POLICY = 2**18  # bytes
_NOT_EMPTY = "an empty list allows nothing; leave it out to ask for nothing"
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class TrustRules:
    """`[trust]`: who may have made a patch. Keys, authorities and identities are alternatives: one of them has signed.

    Args:
        keys (`tuple[str, ...]`):
            Public keys: paths of PEM files, relative to the policy file, or PEM texts.
        certificate_authorities (`tuple[str, ...]`):
            Certificates of authorities, in the same way.
        identities (`tuple[str, ...]`):
            Identities of keyless signing: `"name issuer"`, such as `"release@acme.example https://accounts.google.com"`.
        organisations (`tuple[str, ...]`):
            Organisations or users on the Hub whose repositories may be loaded, with capital letters as they write them.
    """

    keys: tuple[str, ...] = ()
    certificate_authorities: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    organisations: tuple[str, ...] = ()

    @property
    def asks_for_signature(self) -> bool:
        """Whether a patch has to be signed."""
        return bool(self.keys or self.certificate_authorities or self.identities)


@dataclass(frozen=True, kw_only=True)
class EvaluationRules:
    """`[evaluation]`: what the report beside a patch has to show. Only a signature proves that it is on these vectors.

    Args:
        required (`bool`):
            Whether a patch needs a report at all. The other fields ask for one, too.
        minimum_prompts (`int`):
            Fewest prompts of the report.
        better_than_base (`bool`):
            Whether the headline of the report has to be better with the patch than without, beyond the 95% interval of
            the difference.
    """

    required: bool = False
    minimum_prompts: int = 0
    better_than_base: bool = False

    @property
    def asks_for_report(self) -> bool:
        """Whether a patch needs a report."""
        return self.required or self.minimum_prompts > 0 or self.better_than_base


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """`[gate]`: the thresholds of a release.

    Args:
        file (`str`, *optional*):
            The gate's YAML file, relative to the policy file.
    """

    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScanRules:
    """`[scan]`: whether a patch is measured for hostile vectors when it is loaded.

    Args:
        required (`bool`):
            Whether a patch is scanned at load, and refused if the scan finds it hostile or suspicious.
        allow_suspicious (`bool`):
            Whether a suspicious patch may be loaded all the same, such as one that refuses much more.
        folder (`str`, *optional*):
            Where verdicts are kept, by the hashes of patch and base, so that a patch is scanned once; relative to the
            policy file. Defaults to a scan at every load.
    """

    required: bool = False
    allow_suspicious: bool = False
    folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class ComposeRules:
    """`[compose]`: what happens if patches of a stack are known to work against each other.

    Args:
        interference (`"warn"` or `"refuse"`):
            Whether a warning or an error says so.
    """

    interference: Literal["warn", "refuse"] = "warn"


@dataclass(frozen=True, kw_only=True)
class PatchPolicy:
    """What an organisation asks of every patch that it loads. An empty policy asks for nothing.

    Args:
        trust ([`TrustRules`]), evaluation ([`EvaluationRules`]), gate ([`GateRules`]), scan ([`ScanRules`]),
            compose ([`ComposeRules`]): the tables of the file.
        folder (`Path`):
            Where relative paths begin.
        source (`str`):
            What errors call the policy.

    Example:

    ```python
    >>> from policy_patch.trust.policy_file import PatchPolicy
    >>> policy = PatchPolicy.from_toml('[trust]\\norganisations = ["acme"]\\n')
    >>> policy.trust.organisations, policy.trust.asks_for_signature
    (('acme',), False)

    ```
    """

    trust: TrustRules = field(default_factory=TrustRules)
    evaluation: EvaluationRules = field(default_factory=EvaluationRules)
    gate: GateRules = field(default_factory=GateRules)
    scan: ScanRules = field(default_factory=ScanRules)
    compose: ComposeRules = field(default_factory=ComposeRules)
    folder: Path = Path()
    source: str = "the policy"

    @classmethod
    def load(cls, path: str | os.PathLike) -> "PatchPolicy":
        """Read a policy file, or the `policy-patch.toml` of a folder.

        Raises:
            ConfigError: the file cannot be read, is no TOML, has an unknown key or a value of a wrong type, or names a
                key that cannot be read.
        """
        path = Path(path)
        path = path / POLICY_NAME if path.is_dir() else path
        try:
            text = read_text(path, largest=_LARGEST_POLICY)
        except Fault as fault:
            raise ConfigError(f"{fault.at(f'`{path}`')}. Expected a policy file of a few lines.") from fault
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"Cannot read the policy `{path}`: {error}. It is named by `policy=`, `--policy` or "
                f"{POLICY_VARIABLE}, and no patch is loaded without it. Correct the path, or unset what names it."
            ) from error
        return cls.from_toml(text, folder=path.resolve().parent, source=f"`{path}`")

    @classmethod
    def from_toml(cls, text: str, *, folder: str | os.PathLike = ".", source: str = "the policy") -> "PatchPolicy":
        """Read a policy from TOML.

        Raises:
            ConfigError: as [`load`].
        """
        try:
            values = parse_toml(text)
        except Fault as fault:
            raise ConfigError(f"{fault.at(source)}.") from fault
        kinds = {"trust": TrustRules, "evaluation": EvaluationRules, "gate": GateRules, "scan": ScanRules}
        kinds["compose"] = ComposeRules
        _only(values, kinds, f"{source} has the table")
        tables = {name: _section(kinds[name], value, f"[{name}] of {source}") for name, value in values.items()}
        policy = cls(**tables, folder=Path(folder), source=source)
        policy.identities()
        return policy

    def path_of(self, name: str | None) -> Path | None:
        """Return a path that the policy names, from its own folder; None for None."""
        return None if name is None else self.folder / Path(name).expanduser()

    def identities(self) -> tuple[Identity, ...]:
        """Return the identities of keyless signing.

        Raises:
            ConfigError: one is not a name and an issuer.
        """
        found = [one.split() for one in self.trust.identities]
        for one in found:
            if len(one) != 2:
                raise ConfigError(
                    f"[trust] of {self.source} has the identity {' '.join(one)!r}; expected a name and an issuer, like "
                    "`release@acme.example https://accounts.google.com`."
                )
        return tuple(Identity(*one) for one in found)

    def signers(self) -> TrustedSigners:
        """Return whose signatures count; nobody's if the policy asks for none.

        Raises:
            SignatureError: a key or a certificate cannot be read.
            MissingExtraError: the extra `signing` is not installed.
        """
        keys, authorities = (
            [one if one.lstrip().startswith("-----BEGIN") else self.path_of(one) for one in names]
            for names in (self.trust.keys, self.trust.certificate_authorities)
        )
        return read_signers(keys, authorities, self.identities())


def policies_in_force(given: PatchPolicy | str | os.PathLike | None = None) -> tuple[PatchPolicy, ...]:
    """Return the policies that a patch has to satisfy: a given one, and those that POLICY_PATCH_POLICY names.

    A policy in Python or of a command does not replace that of the machine: all hold. The variable names one file, or
    several as PATH does.

    Raises:
        ConfigError: a policy cannot be read. Then no patch is loaded.
    """
    found = [] if given is None else [given if isinstance(given, PatchPolicy) else PatchPolicy.load(given)]
    named = os.environ.get(POLICY_VARIABLE, "").split(os.pathsep)
    return (*found, *(PatchPolicy.load(path) for path in named if path))


def _section(kind: type[Section], value: Any, where: str) -> Section:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is a {type(value).__name__}; expected a table.")
    types = get_type_hints(kind)
    _only(value, types, f"{where} has the key")
    return kind(**{name: _fitting(types[name], one, f"`{name}` in {where}") for name, one in value.items()})


def _only(values: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name in values:
        if name not in known:
            known_ones = f"Known: {', '.join(known)}."
            hint = did_you_mean(name, known, otherwise=known_ones)
            raise ConfigError(f"{where} `{name}`, which is not known. {hint}")


def _fitting(kind: Any, value: Any, where: str) -> Any:
    """Return a value of the file in the type of its field."""
    options = [one for one in get_args(kind) if one is not NoneType] if isinstance(kind, UnionType) else [kind]
    (wanted,) = options
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            raise ConfigError(f"{where} is {value!r}; expected {' or '.join(map(repr, get_args(wanted)))}.")
        return value
    if get_origin(wanted) is tuple:
        if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
            raise ConfigError(f"{where} is {value!r}; expected a list of texts.")
        if not value:
            raise ConfigError(f"{where} is empty: {_NOT_EMPTY}.")
        return tuple(value)
    if type(value) is not wanted:
        raise ConfigError(f"{where} is {value!r}; expected a {wanted.__name__}.")
    if isinstance(value, int) and value < 0:
        raise ConfigError(f"{where} is {value}; expected 0 or more.")
    return value
