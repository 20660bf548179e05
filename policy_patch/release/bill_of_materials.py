"""`make_bom`: what a patch is made of, as a CycloneDX 1.7 bill of materials for machine learning.

It lists what the files of the patch record, with their hashes, and names what they do not record. It proves nothing:
that is what a signature is for.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy_patch._version import __version__
from policy_patch.config import SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.extra import import_extra
from policy_patch.files.documents import parse_json
from policy_patch.hub.fetch import CARD_NAME, EVALUATION_NAME, HubOptions, PatchLocation, files_beside, locate_patch
from policy_patch.hub.names import REPO_ID, is_commit
from policy_patch.model_card.card import card_metadata
from policy_patch.patch.folder import read_patch_files
from policy_patch.privacy.local_names import without_folders
from policy_patch.report.report import EvaluationReport
from policy_patch.report.system_names import PATCH, TEACHER

_PREFIX = "policy-patch:"
_TASK = "text-generation"
_SLICES = {PATCH: "with the patch"}
_NAMESPACE = uuid.UUID("5b0b6f0e-4a2c-5a6e-9a51-0c7d3d6f3b52")  # ours; a patch's files give its serial number


@dataclass(frozen=True)
class BillOfMaterials:
    """A bill of materials.

    Args:
        document (`dict`):
            The CycloneDX 1.7 document, as JSON values.
        missing (`tuple[str, ...]`):
            What a reader may ask for and the files do not record, such as `teacher`.
    """

    document: dict[str, Any]
    missing: tuple[str, ...] = ()


def make_bom(patch: str | os.PathLike, hub: HubOptions | None = None) -> BillOfMaterials:
    """Return what a patch is made of.

    Args:
        patch (`str` or `os.PathLike`):
            A folder, or a repository on the Hub, maybe with a version.
        hub ([`~policy_patch.hub.HubOptions`], *optional*):
            Revision, token, cache and so on.

    Returns:
        [`BillOfMaterials`]: the patch with the hashes of its files; its base with commit and fingerprint; teacher,
        data, scorers and parts as far as its files record them; the tools with their versions.

    Raises:
        PatchNotFoundError, ConfigError, PatchFileError, HubError: the patch cannot be found, fetched or read.
        EvaluationError: its report cannot be read.
        MissingExtraError: the extra `signing` is not installed.
    """
    beside = (CARD_NAME, EVALUATION_NAME, SIGNATURE_NAME)
    location = locate_patch(patch, hub, optional=beside)
    read = read_patch_files(location.folder)
    files = read.files | files_beside(location.folder, beside)
    report = None
    if EVALUATION_NAME in files:
        report = EvaluationReport.from_json(files[EVALUATION_NAME].decode("utf-8", "replace"), EVALUATION_NAME)
    card = card_metadata(files[CARD_NAME].decode("utf-8", "replace")) if CARD_NAME in files else {}
    name = location.repo_id or Path(os.path.abspath(location.folder)).name
    return _Writer(name, location, read.config, files, report, card).write()


@dataclass
class _Writer:
    """Puts the recorded facts of one patch into the types of cyclonedx-python-lib."""

    name: str
    location: PatchLocation
    config: PolicyPatchConfig
    files: dict[str, bytes]
    report: EvaluationReport | None
    card: dict[str, Any]
    missing: list[str] = field(default_factory=list)

    def write(self) -> BillOfMaterials:
        """Return the document. The library knows no model card, so that part is put beside what it writes."""
        self._library = import_extra(
            "cyclonedx.model.component", "cyclonedx-python-lib", "signing", "A bill of materials"
        )
        bom_module = import_extra("cyclonedx.model.bom", "cyclonedx-python-lib", "signing", "A bill of materials")
        tool_module = import_extra("cyclonedx.model.tool", "cyclonedx-python-lib", "signing", "A bill of materials")
        output = import_extra("cyclonedx.output", "cyclonedx-python-lib", "signing", "A bill of materials")
        schema = import_extra("cyclonedx.schema", "cyclonedx-python-lib", "signing", "A bill of materials")
        patch, parts = self._patch(), [*self._base(), *self._teacher(), *self._judges(), *self._data(), *self._parts()]
        bom = bom_module.Bom(
            serial_number=uuid.uuid5(_NAMESPACE, json.dumps(self._hashes(), sort_keys=True)),
            components=parts,
            metadata=bom_module.BomMetaData(
                component=patch, tools=tool_module.ToolRepository(components=list(self._tools()))
            ),
        )
        bom.register_dependency(patch, parts)
        writer = output.make_outputter(bom, schema.OutputFormat.JSON, schema.SchemaVersion.V1_7)
        document = parse_json(writer.output_as_string())
        document["metadata"]["component"]["modelCard"] = self._model_card(document)
        return BillOfMaterials(document, tuple(self.missing))

    def _hashes(self) -> dict[str, str]:
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}

    def _component(self, ref: str, name: str, kind: str, **more: Any) -> Any:
        kinds = self._library.ComponentType
        sha256, notes = more.pop("sha256", None), more.pop("notes", {})
        if sha256 is not None:
            more["hashes"] = [self._library.HashType(alg=self._library.HashAlgorithm.SHA_256, content=sha256)]
        if notes:
            known = {key: value for key, value in notes.items() if value is not None}
            more["properties"] = [
                self._library.Property(name=_PREFIX + key, value=str(value)) for key, value in known.items()
            ]
        return self._library.Component(bom_ref=ref, name=name, type=kinds(kind), **more)

    def _model(self, ref: str, name: str, revision: str | None = None, **more: Any) -> Any:
        """Return a model, by the purl of its repository if it has one; a folder of this machine by its last part."""
        shown = without_folders(name)
        if shown == name and REPO_ID.fullmatch(name):
            more["purl"] = _purl(name, revision)
        return self._component(ref, shown, "machine-learning-model", version=revision, **more)

    def _patch(self) -> Any:
        config = self.config
        licences = import_extra(
            "cyclonedx.contrib.license.factories", "cyclonedx-python-lib", "signing", "A bill of materials"
        )
        licence = self.card.get("license")
        if not isinstance(licence, str):
            self.missing.append("licence")
        parts = [
            self._component(f"file:{name}", name, "file", sha256=sha256)
            for name, sha256 in sorted(self._hashes().items())
        ]
        notes = {
            "risk": config.risk, "num_virtual_tokens": config.num_virtual_tokens, "hidden_size": config.hidden_size,
            "placement": config.placement, "commit": self.location.commit, "signed": SIGNATURE_NAME in self.files,
        }  # fmt: skip
        return self._component(
            "patch", self.name, "machine-learning-model", version=config.patch_version, sha256=config.sha256,
            purl=_purl(self.name, self.location.commit) if self.location.repo_id else None,
            licenses=[licences.LicenseFactory().make_from_string(licence)] if isinstance(licence, str) else None,
            components=parts, notes=notes, description=f"Safety patch: {config.num_virtual_tokens} learned vectors.",
        )  # fmt: skip

    def _base(self) -> Iterator[Any]:
        name, fingerprint = self.config.base_model_name_or_path, self.config.base_fingerprint
        if name is None:
            self.missing.append("base")
            return
        if not self.config.base_model_revision or not is_commit(self.config.base_model_revision):
            self.missing.append("commit of the base")
        sha256 = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest() if fingerprint else None
        notes = {"role": "base", "fingerprint_sha256": sha256}
        yield self._model("base", name, self.config.base_model_revision, notes=notes)

    def _teacher(self) -> Iterator[Any]:
        if self.report is None or TEACHER not in self.report.systems:
            self.missing.append("teacher")
            return
        yield self._model("teacher", self.report.systems[TEACHER].model, notes={"role": "teacher"})

    def _judges(self) -> Iterator[Any]:
        """Yield the scorers that filtered the training pairs, and those and the judge that measured the patch."""
        roles: dict[str, list[str]] = {}
        for name in self.config.filtered_by or ():
            roles.setdefault(name, []).append("filtered the training pairs")
        if self.report is not None:
            for scorer in self.report.scorers:
                roles.setdefault(scorer.name, []).append("scored the answers")
            roles.setdefault(self.report.perplexity_model, []).append("measured perplexity")
        for name, of in sorted(roles.items()):
            yield self._model(f"scorer:{without_folders(name)}", name, notes={"role": "; ".join(of)})

    def _data(self) -> Iterator[Any]:
        named = self.card.get("datasets")
        listed = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        for name in sorted({one for one in listed if isinstance(one, str)}):
            purl = _purl(name, None, kind="datasets") if REPO_ID.fullmatch(name) else None
            yield self._component(f"data:{name}", name, "data", purl=purl, notes={"role": "named on the card"})
        if not listed:
            self.missing.append("training data")
        if self.report is None:
            self.missing.append("evaluation")
            return
        settings = self.report.settings
        notes = {"role": "evaluation", "size": settings.num_prompts}
        name = "prompts of the evaluation"
        yield self._component("data:evaluation-prompts", name, "data", sha256=settings.prompts_sha256, notes=notes)

    def _parts(self) -> Iterator[Any]:
        """Yield the patches that this one was composed of."""
        for number, part in enumerate(self.config.composed_from or ()):
            name = str(part.get("name") or f"part {number + 1}")
            sha256 = part.get("sha256")
            usable = sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None
            version = part.get("patch_version") or part.get("version")
            yield self._component(
                f"part:{number}", without_folders(name), "machine-learning-model", sha256=usable,
                version=str(version) if version else None, notes={"role": "part", "risk": part.get("risk")},
            )  # fmt: skip

    def _tools(self) -> Iterator[Any]:
        versions = dict(self.report.environment) if self.report is not None else {}
        written = self.config.policy_patch_version
        yield self._component("tool:policy-patch", "policy-patch", "application", version=written or __version__)
        for name, version in sorted(versions.items()):
            if name not in ("policy-patch", "policy_patch"):
                yield self._component(f"tool:{name}", name, "library", version=version)

    def _model_card(self, document: dict[str, Any]) -> dict[str, Any]:
        refs = [one["bom-ref"] for one in document.get("components", ()) if one["type"] == "data"]
        card: dict[str, Any] = {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": _TASK,
                "datasets": [{"ref": ref} for ref in refs],
            },
            "considerations": {
                "technicalLimitations": [
                    "Works on the base with the recorded fingerprint only; other bases are refused."
                ]
            },
        }
        if metrics := list(self._metrics()):
            card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
        return card

    def _metrics(self) -> Iterator[dict[str, Any]]:
        if self.report is None:
            return
        metric = self.report.headline
        for system in self.report.systems:
            figure = self.report.estimate(system, metric.name)
            if figure.value == figure.value:  # not NaN
                yield {
                    "type": metric.title, "value": f"{figure.value:.6g}", "slice": _SLICES.get(system, system),
                    "confidenceInterval": {"lowerBound": f"{figure.low:.6g}", "upperBound": f"{figure.high:.6g}"},
                }  # fmt: skip


def _purl(repo_id: str, revision: str | None, *, kind: str | None = None) -> Any:
    """Return the package URL of a repository on the Hub: `pkg:huggingface/org/name@commit`."""
    packageurl = import_extra("packageurl", "packageurl-python", "signing", "A bill of materials")
    namespace, _, name = repo_id.rpartition("/")
    return packageurl.PackageURL("huggingface", namespace, name, revision, {"repo_type": kind} if kind else None)


def missing_sentence(missing: Iterable[str]) -> str:
    """Return in words what the files do not record; empty if that is nothing."""
    listed = ", ".join(missing)
    return f"Not recorded in the files of the patch: {listed}." if listed else ""
