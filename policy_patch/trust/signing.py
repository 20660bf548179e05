"""Signs the folder of a patch: `model.sig`, a bundle of OpenSSF model-signing v1.0 over every file of the patch.

By an elliptic-curve key or a certificate, which work offline, or keyless by Sigstore, which needs the network.
`verifying.py` checks it.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME
from policy_patch.errors import PatchSaveError, SignatureError, SigningKeyError
from policy_patch.extra import import_extra
from policy_patch.files.atomic import write_whole
from policy_patch.patch.folder import TENSORS_NAME, read_patch_folder
from policy_patch.trust.signed_files import (
    NEVER_SIGNED,
    hash_of,
    hashed_folder,
    is_left_out,
    must_be_signed,
)
from policy_patch.trust.signers import (
    PURPOSE,
    TrustedSigners,
    is_usable,
    key_of,
    read_pem,
    readable,
)
from policy_patch.trust.verifying import Signed, check_made, check_signature


def sign_policy_patch(
    folder: str | os.PathLike,
    *,
    private_key: str | os.PathLike | None = None,
    certificate: str | os.PathLike | None = None,
    certificate_chain: Sequence[str | os.PathLike] = (),
    password: str | None = None,
    identity_token: str | None = None,
) -> Signed:
    """Sign the patch in a folder, and write the signature beside it as `model.sig`.

    Signed are the configuration, the vectors, the report `evaluation.json` and the results in `.eval_results/`; not the
    card, which people and the Hub edit. What else lies in the folder is not signed, and the signature says so. The new
    signature is checked before it is written. An earlier one is replaced.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of a saved patch.
        private_key (`str` or `os.PathLike`, *optional*):
            PEM file of an elliptic-curve key on P-256, P-384 or P-521. Without it the signature is keyless: Sigstore
            confirms who signs, over the network.
        certificate (`str` or `os.PathLike`, *optional*):
            PEM file of the certificate of that key. Then the certificate goes into the signature, and who trusts the
            authority above it needs no key.
        certificate_chain (`Sequence` of `str` or `os.PathLike`):
            PEM files of the certificates between it and the authority, from the signer's issuer upwards; at least the
            authority's.
        password (`str`, *optional*):
            Password of the private key.
        identity_token (`str`, *optional*):
            Keyless: an OpenID Connect token. Defaults to the one of the CI that runs this.

    Returns:
        [`~policy_patch.trust.verifying.Signed`]: who signed, and the signed files with their hashes.

    Raises:
        PatchNotFoundError, ConfigError, PatchFileError: the folder holds no whole patch.
        SigningKeyError: the key or the certificate cannot be used, or keyless signing does not reach Sigstore.
        PatchSaveError: the signature cannot be written.
        MissingExtraError: the extra `signing` is not installed.
    """
    folder = Path(folder)
    read_patch_folder(folder)
    others = sorted(
        entry.name for entry in os.scandir(folder)
        if not must_be_signed(entry.name) and not must_be_signed(f"{entry.name}/x") and not is_left_out(entry.name)
    )  # fmt: skip
    hashed = hashed_folder(folder, skipped=tuple(others))
    signer = _Signer(private_key, certificate, tuple(certificate_chain), password, identity_token)
    content = signer.sign(folder, left_out=(*NEVER_SIGNED, *others))
    done = signer.checked(content, hashed, f"`{folder}`")
    try:
        write_whole(folder / SIGNATURE_NAME, content)
    except OSError as error:
        raise PatchSaveError(f"Cannot write the signature into `{folder}`: {error}.") from error
    return done


def signed_files(files: Mapping[str, bytes], **signer: Any) -> bytes:
    """Return the signature over files that are not on disk yet, as a push makes them. Arguments and errors as above."""
    with tempfile.TemporaryDirectory(prefix="policy-patch-") as place:
        folder = Path(place, "patch")  # the signature names it
        for name, content in files.items():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(content)
        sign_policy_patch(folder, **signer)
        return Path(folder, SIGNATURE_NAME).read_bytes()


def earlier_signature(folder: str | os.PathLike) -> Callable[[Mapping[str, bytes]], bytes] | None:
    """Return a function that gives files the signature that lies in a folder, if it covers them; None if there is none.

    The function raises SignatureError if the files are not the signed ones.
    """
    path = Path(folder, SIGNATURE_NAME)
    if not path.is_file():
        return None
    content = path.read_bytes()

    def sign(files: Mapping[str, bytes]) -> bytes:
        hashes = {name: hash_of(one) for name, one in files.items()}
        try:
            check_made(content, hashes, source="what would be published", required=(CONFIG_NAME, TENSORS_NAME))
        except SignatureError as error:
            raise SignatureError(
                f"`{folder}` is signed, and what would be published is not what was signed: {error} Sign as you push "
                f"(`--sign key.pem`), or remove `{path}`. Nothing was published."
            ) from error
        return content

    return sign


class _Signer:
    """One signer: checks key and certificate before model-signing does, whose errors do not say what to do."""

    def __init__(
        self,
        private_key: str | os.PathLike | None,
        certificate: str | os.PathLike | None,
        certificate_chain: tuple[str | os.PathLike, ...],
        password: str | None,
        identity_token: str | None,
    ) -> None:
        self._key, self._certificate, self._chain, self._token = (
            private_key,
            certificate,
            certificate_chain,
            identity_token,
        )
        self._password = None if password is None else password.encode()
        if private_key is None and (certificate is not None or certificate_chain or password is not None):
            raise SigningKeyError(
                "A certificate, a chain or a password needs `private_key=` (`--key`), the key that signs."
            )
        if (certificate is None) != (not certificate_chain):
            raise SigningKeyError(
                "`certificate=` (`--certificate`), the signer's own, and `certificate_chain=` (`--chain`), those "
                "above it or at least the authority's, belong together; give both."
            )
        self._public = None if private_key is None else self._public_key(private_key)

    def _public_key(self, private_key: str | os.PathLike) -> Any:
        import_extra("OpenSSL", "pyOpenSSL", "signing", PURPOSE)
        serialization = import_extra(
            "cryptography.hazmat.primitives.serialization", "model-signing", "signing", PURPOSE
        )
        pem, source = read_pem(readable(private_key), "private key")
        try:
            key = serialization.load_pem_private_key(pem, self._password)
        except Exception as error:  # cryptography has several
            if b"PUBLIC KEY" in pem:
                raise SigningKeyError(
                    f"{source} is a public key; sign with the private key that belongs to it."
                ) from error
            raise SigningKeyError(
                f"{source} holds no private key in PEM that can be read ({type(error).__name__}: {error}). A key "
                "with a password needs it (POLICY_PATCH_KEY_PASSWORD, or `password=`)."
            ) from error
        if not is_usable(key.public_key()):
            raise SigningKeyError(
                f"{source} is a {type(key).__name__}; model-signing takes elliptic keys on P-256, P-384 or P-521. "
                "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem` makes one."
            )
        return key.public_key()

    def sign(self, folder: Path, left_out: Sequence[str]) -> bytes:
        """Return the content of the signature file over all files of a folder but some."""
        hashing = import_extra("model_signing.hashing", "model-signing", "signing", PURPOSE)
        config = import_extra("model_signing.signing", "model-signing", "signing", PURPOSE).Config()
        hashes = hashing.Config().set_ignored_paths(paths=sorted(left_out)).set_allow_symlinks(True)
        with tempfile.TemporaryDirectory(prefix="policy-patch-") as place:
            written = Path(place, SIGNATURE_NAME)
            try:
                self._choose(config).set_hashing_config(hashes).sign(folder, written)
                content = written.read_bytes()
            except SignatureError:
                raise
            except Exception as error:  # ValueError, TUFError, IdentityError, OSError, ...
                raise SigningKeyError(self._why_not(folder, error)) from error
        return content

    def _choose(self, config: Any) -> Any:
        if self._key is None:
            return config.use_sigstore_signer(identity_token=self._token, use_ambient_credentials=self._token is None)
        if self._certificate is None:
            return config.use_elliptic_key_signer(private_key=self._key, password=self._password)
        if self._password is not None:
            raise SigningKeyError(
                "model-signing signs with a certificate only by a key without a password. Decrypt the key into a "
                "file that only you can read (`openssl ec -in key.pem -out plain.pem`), and remove it afterwards."
            )
        chain = [readable(path) for path in self._chain]
        return config.use_certificate_signer(
            private_key=self._key, signing_certificate=readable(self._certificate), certificate_chain=chain
        )

    def _why_not(self, folder: Path, error: Exception) -> str:
        reason = f"{type(error).__name__}: {error}"
        if self._key is None:
            return (
                f"Cannot sign `{folder}` keyless ({reason}). Sigstore has to be reached over the network and to "
                "confirm who you are. Give a key instead (`--key`); that works offline."
            )
        return f"Cannot sign `{folder}` ({reason}). Check that key, certificate and chain belong together."

    def checked(self, content: bytes, files: Mapping[str, str], source: str) -> Signed:
        """Check a signature of this signer that was just made."""
        required = (CONFIG_NAME, TENSORS_NAME)
        if self._key is not None and self._certificate is None:
            own = TrustedSigners(keys=(key_of(self._public, "the key that signs"),))
            return check_signature(content, files, own, source=source, required=required)
        return check_made(content, files, source=source, required=required)
