"""Runs the verification cases of the conformance suite of OpenSSF model-signing against `policy_patch.trust`.

The suite is not part of this repository: give the folder of a clone. Keyless cases need the network and are counted
apart; a case whose answer differs from the suite's is printed.

    python -m benchmarks.signing_conformance model-signing-conformance
"""

import argparse
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from policy_patch.errors import SignatureError
from policy_patch.trust.signed_files import hashed_folder
from policy_patch.trust.signers import Identity, read_signers
from policy_patch.trust.verifying import check_signature


def main() -> None:
    """Run the cases and print how many came out as the suite says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path, help="clone of the conformance suite")
    suite = parser.parse_args().suite / "test"
    counted: Counter[str] = Counter()
    for config in sorted(suite.glob("test-cases/verify/*/*/config.json")):
        case = json.loads(config.read_text())
        expected = case.get("expect", "pass")
        found, why = answer(suite, config.parent, case)
        kind = "keyless, needs the network" if case["method"] == "sigstore" else "key or certificate"
        agrees = found == expected
        counted[f"{kind}: {'as the suite says' if agrees else 'differs'}"] += 1
        print(f"{'' if agrees else 'DIFFERS '}{config.parent.name}: {found} ({why[:150]})")
    print(json.dumps(counted, indent=1))


def answer(suite: Path, folder: Path, case: dict[str, Any]) -> tuple[str, str]:
    """Return `pass` or `fail` for one case, and why."""
    place = {"test_dir": folder}.get(case.get("model_relative_to"), suite / "assets")
    options = case["verify"]
    try:
        with tempfile.TemporaryDirectory() as work:
            model = Path(work, "model")
            source = place / case["model"]
            if source.is_dir():
                shutil.copytree(source, model)
            else:  # the signature calls it by its name, or `.`
                model.mkdir()
                shutil.copy(source, model / source.name)
            _change(model, case.get("model_modifications", {}))
            ignored = tuple(options.get("ignore_paths", ()))
            hashes = hashed_folder(model, skipped=ignored)
            if source.exists() and not source.is_dir() and case_files(folder) == {"."}:
                hashes = {".": hashes[source.name]}
            if options.get("ignore_unsigned_files"):
                hashes = {name: digest for name, digest in hashes.items() if name in case_files(folder)}
            signers = read_signers(
                [suite / "assets" / options["public_key"]] if "public_key" in options else [],
                [suite / "assets" / one for one in options.get("cert_chain", ())],
                [Identity(options["identity"], options["identity_provider"])] if "identity" in options else [],
            )
            bundle = folder / "bundle.sig"
            content = bundle.read_bytes() if bundle.exists() else None
            signed = check_signature(content, hashes, signers, source=folder.name)
            if "expected_signed_files" in case and sorted(signed.files) != sorted(case["expected_signed_files"]):
                return "wrong files", str(sorted(signed.files))
            return "pass", signed.signer
    except SignatureError as error:
        return "fail", str(error)


def case_files(folder: Path) -> set[str]:
    """Return the names that a bundle signs."""
    from policy_patch.trust.bundle import read_bundle

    return set(read_bundle((folder / "bundle.sig").read_bytes(), folder.name).files)


def _change(model: Path, changes: dict[str, Any]) -> None:
    for name, text in {**changes.get("tamper", {}), **changes.get("inject", {})}.items():
        (model / name).write_text(text)
    for name in changes.get("delete", ()):
        (model / name).unlink(missing_ok=True)
    for name, target in changes.get("symlinks", {}).items():
        (model / name).symlink_to(target)


if __name__ == "__main__":
    main()
