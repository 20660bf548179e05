"""Opens a gateway: reads base and patches, checks each engine, and serves both applications until it is stopped.

What is done with a request is in `gateway.py`.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from policy_patch.answers.addresses import KEY_VARIABLE, check_address, shown_address
from policy_patch.base.served_base import ServedBase, read_served_base
from policy_patch.errors import ConfigError, EndpointError, PatchNameError, PolicyPatchError, ServingError
from policy_patch.extra import import_extra
from policy_patch.files.documents import Fault, read_text
from policy_patch.hub.fetch import HubOptions, only_cached_commit
from policy_patch.hub.lock_file import Lock, LockedBase, read_lock
from policy_patch.hub.locked_patches import read_locked
from policy_patch.hub.named_patch import NamedPatch, base_of, load_named_patch
from policy_patch.hub.names import is_commit
from policy_patch.patch.prompt_embeds import Stack, stack_of
from policy_patch.privacy.local_names import without_folders
from policy_patch.serving.engine_check import Post, check_engine
from policy_patch.serving.gateway import Gateway, gateway_app
from policy_patch.serving.gateway_admin import admin_app
from policy_patch.serving.gateway_probe import probe_gateway
from policy_patch.serving.served_patches import ServedPatches
from policy_patch.serving.upstreams import Upstreams

logger = logging.getLogger(__name__)

KINDS = ("prompt-embeds", "baked")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LARGEST_TEMPLATE = 2**20  # bytes; our choice


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """How a gateway is opened.

    Args:
        upstreams (`Sequence[str]`):
            Addresses of engines up to and including `/v1`. All serve the same base.
        patches (`Sequence[str]`):
            Folders or Hub ids, each maybe with a name. Of several versions of one name the last is current.
        lock (`str`, *optional*):
            A lock file instead: exactly its base and patches are served, and [`reload_lock`] follows it.
        base (`str`, *optional*):
            Folder or Hub id of the base. Defaults to what the patches name.
        model (`str`, *optional*):
            Name of the base at the engines. Defaults to the one model that they list.
        name (`str`, *optional*):
            Name of the base in the gateway's model names. Defaults to the last part of `base`.
        kind (`str`, *optional*, defaults to `"prompt-embeds"`):
            `"prompt-embeds"` for vLLM with the unmodified base, `"baked"` for a checkpoint with the patches in it.
        dtype (`str`, *optional*):
            What the engines serve the base with. Defaults to the dtype of its configuration.
        allow_base (`bool`, *optional*, defaults to `False`):
            Serve the base without a patch, too.
        check (`bool`, *optional*, defaults to `True`):
            Prove at the start, and for each new patch, that the engines do what it needs.
        probe (`str`, *optional*):
            A probe recorded at export, or the folder that holds it: each patch is compared with it, too, so that an
            engine with other weights than the patch's base is found. A baked engine is checked by it alone.
        bits (`int`, *optional*, defaults to `16`):
            Of the engines' weights: 16, 8 or 4. It sets how far they may be from the probe.
        chat (`bool`, *optional*, defaults to `True`):
            Check chat, too.
        chat_template (`str`, *optional*):
            File with the base's own chat template, where its tokenizer has none.
        most_bytes (`int`, *optional*, defaults to `4 * 2**20`):
            Largest request.
        timeout (`float`, *optional*, defaults to `600.0`):
            Seconds to wait for the next bytes of an engine.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What follows if a request names a stack that breaks a rule of its patches.
        hub ([`HubOptions`], *optional*):
            Token, cache and so on.
    """

    upstreams: Sequence[str]
    patches: Sequence[str] = ()
    lock: str | None = None
    base: str | None = None
    model: str | None = None
    name: str | None = None
    kind: str = "prompt-embeds"
    dtype: str | None = None
    allow_base: bool = False
    check: bool = True
    probe: str | None = None
    bits: int = 16
    chat: bool = True
    chat_template: str | None = None
    most_bytes: int = 4 * 2**20
    timeout: float = 600.0
    on_conflict: str = "warn"
    hub: HubOptions = field(default_factory=HubOptions)


def open_gateway(settings: GatewaySettings) -> tuple[Gateway, Callable[[str], NamedPatch]]:
    """Return a gateway whose engines have been checked, and the function that reads and checks one more patch.

    Raises:
        ServingError: an engine does not do what a patch needs.
        ConfigError: a setting is missing or not known.
        EndpointError: an engine cannot be reached.
        BaseMismatchError: a patch of another base.
        PolicyPatchError: a patch or the base cannot be read.
    """
    check_settings(settings)
    lock, patches = _named_patches(settings)
    if lock is not None:
        base_name, revision = lock.base.id, lock.base.commit
    else:
        base_name, revision = base_of(patches, settings.base)
    base, dtype = None, torch.float32
    if settings.kind == "prompt-embeds":
        hub = settings.hub
        options = {"token": hub.token, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only or None}
        base = read_served_base(base_name, revision=revision, dtype=_DTYPES.get(settings.dtype or ""), **options)
        dtype = base.rows.dtype
    model = settings.model or _only_model(settings.upstreams[0])
    name = settings.name or Path(base_name).name
    commit = revision if revision and is_commit(revision) else only_cached_commit(base_name)
    shown = {"id": without_folders(base_name), "commit": commit}
    served = ServedPatches(
        name, dtype, allow_base=settings.allow_base, on_conflict=settings.on_conflict, base_facts=shown
    )
    for patch in patches:
        _check_patch(settings, model, base, {patch.name: patch})
        served.put(patch)
    upstreams = Upstreams(settings.upstreams, timeout=settings.timeout)
    locked = None if lock is None else lock.base
    gateway = Gateway(served, upstreams, model, base, settings.most_bytes, locked_base=locked)
    if settings.check and settings.probe is not None:
        for what, verdict in probe_gateway(gateway, settings.upstreams, settings.probe, bits=settings.bits).items():
            logger.info("Probed %s: %s", what, verdict)

    logger.info("%s", json.dumps({"serving": served.models()}))

    def load(spec: str) -> NamedPatch:
        if base is None:
            raise ServingError(_BAKED)
        if lock is not None:
            raise ServingError(
                f"This gateway serves exactly what {settings.lock} pins. Change the lock (`policy-patch upgrade`, "
                "`policy-patch rollback`), and let the gateway read it: `POST /lock`, or `kill -HUP`."
            )
        patch = load_named_patch(spec, settings.hub)
        _check_patch(settings, model, base, {patch.name: patch})
        return patch

    return gateway, load


_reloading = threading.Lock()  # a signal and the operator may ask at once; the later lock has to stay
_BAKED = "The patches of a baked engine are in its checkpoint. Bake anew, and restart both."


def _named_patches(settings: GatewaySettings) -> tuple[Lock | None, list[NamedPatch]]:
    if settings.lock is None:
        return None, [load_named_patch(spec, settings.hub) for spec in settings.patches]
    lock = read_lock(settings.lock)
    return lock, read_locked(lock, settings.lock, settings.hub)


def reload_lock(gateway: Gateway, settings: GatewaySettings) -> list[dict[str, object]]:
    """Read the lock file again and serve exactly what it pins now, all at once; if anything is wrong, nothing changes.

    Requests go on meanwhile, and those under way keep their patches.

    Args:
        gateway ([`Gateway`]), settings ([`GatewaySettings`]):
            The gateway, and what it was opened with.

    Returns:
        `list[dict]`: the facts of each patch that is served now.

    Raises:
        ServingError: the gateway has no lock, the new lock is for another base, or an engine does not do what a patch
            needs.
        LockError, HubError, BaseMismatchError: the lock cannot be read or applied.
    """
    if settings.lock is None:
        raise ServingError("This gateway was started without a lock; start it with `--lock policy-patch.lock`.")
    if gateway.base is None:
        raise ServingError(_BAKED)
    with _reloading:
        return _reload(gateway, settings)


def _reload(gateway: Gateway, settings: GatewaySettings) -> list[dict[str, object]]:
    lock, patches = _named_patches(settings)
    if not _is_same_base(lock.base, gateway.locked_base):
        raise ServingError(
            f"{settings.lock} is now for the base {lock.base.id} at {lock.base.commit}; the engines serve "
            f"{gateway.locked_base.id} at {gateway.locked_base.commit}. Restart engines and gateway for another base."
        )
    for patch in patches:
        _check_patch(settings, gateway.model, gateway.base, {patch.name: patch})
    gateway.patches.replace_all(patches)
    facts = [patch.facts() for patch in patches]
    logger.info("%s", json.dumps({"admin": "lock", "patches": [f"{one.name}@{one.version_tag}" for one in patches]}))
    return facts


def _is_same_base(one: LockedBase, other: LockedBase) -> bool:
    return (one.id, one.commit) == (other.id, other.commit)  # the fingerprint is taken anew with each patch


def check_settings(settings: GatewaySettings) -> None:
    """Raise an error for settings with which no gateway can be opened; no request is sent and no file is read.

    Raises:
        ConfigError, PatchNameError: a setting is missing, not known, or excludes another.
        EndpointError: an address is not valid.
    """
    if settings.kind not in KINDS:
        raise ConfigError(f"`upstream_kind={settings.kind!r}`: expected one of {', '.join(KINDS)}.")
    if settings.dtype not in (None, *_DTYPES):
        raise ConfigError(f"`dtype={settings.dtype!r}`: expected one of {', '.join(_DTYPES)}.")
    if settings.lock is not None and (settings.patches or settings.base is not None):
        raise ConfigError("A lock names base and patches; leave `--patch` and `--base` out beside `--lock`.")
    if not settings.upstreams or not (settings.patches or settings.lock):
        raise ConfigError(
            "A gateway needs at least one engine (`--upstream`) and one patch (`--patch`), or a lock (`--lock`)."
        )
    if settings.kind == "baked" and settings.check and settings.probe is None:
        raise ConfigError(
            "A baked engine cannot be asked which patches and versions are in its checkpoint. Give the probe that was "
            "written beside the checkpoint (`--probe`), or go without proof (`--no_check`)."
        )
    for url in settings.upstreams:
        check_address(url)
    if settings.name is not None and ("+" in settings.name or "@" in settings.name):
        raise PatchNameError(f"`name={settings.name!r}` has `+` or `@` in it, which part the patches of a model name.")


def _check_patch(
    settings: GatewaySettings, model: str, base: ServedBase | None, patches: Mapping[str, NamedPatch]
) -> None:
    """Refuse patches that do not fit the base, and engines that do not do what they need."""
    if base is not None:
        for one in patches.values():
            base.check_patch(one.config, one.vectors, f"The patch `{one.name}`")
    if base is None:  # baked: the probe of the whole gateway says which patches are in the checkpoint
        return
    if not settings.check:
        logger.warning("Not checked (--no_check): whether the engines put %s where it counts.", ", ".join(patches))
        return
    for url in settings.upstreams:
        with _poster(url) as post:
            stacks: dict[str, Stack] = {
                name: stack_of({name: (one.config, one.vectors)}, base.rows.dtype) for name, one in patches.items()
            }
            found = check_engine(
                post, model, base, stacks, chat=settings.chat, chat_template=_read(settings.chat_template)
            )
        logger.info("Checked %s: %s", shown_address(url), found)


def _read(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return read_text(file, largest=_LARGEST_TEMPLATE)
    except (OSError, Fault) as error:
        raise ConfigError(f"The chat template `{file}` cannot be read: {error}.") from error


@contextmanager
def _client(url: str) -> Iterator[Any]:
    """Give a client of one engine, with the operator's key, whose errors are ours and quote neither key nor request."""
    httpx = import_extra("httpx2", "httpx2", "serving", "The gateway")
    key = os.environ.get(KEY_VARIABLE)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=120.0, trust_env=False) as client:
            yield client
    except (httpx.HTTPError, ValueError) as error:
        if isinstance(error, PolicyPatchError):
            raise
        raise EndpointError(
            f"The engine at {shown_address(url)} does not answer: {type(error).__name__}. Is it up, and does its "
            "address end with `/v1`?"
        ) from None


@contextmanager
def _poster(url: str) -> Iterator[Post]:
    with _client(url) as client:

        def post(path: str, body: dict[str, Any]) -> Mapping[str, Any]:
            answer = client.post(path.lstrip("/"), json=body)
            if answer.status_code != 200:
                raise ServingError(
                    f"The engine at {shown_address(url)} answers {answer.status_code} to a request of the check: "
                    f"{answer.text[:300]}"
                )
            return answer.json()

        yield post


def _only_model(url: str) -> str:
    with _client(url) as client:
        listed = client.get("models").json()
    models = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list) or len(models) != 1 or not isinstance(models[0], dict) or "id" not in models[0]:
        raise ConfigError(f"The engine at {shown_address(url)} lists not one model; say which: `--model`.")
    return str(models[0]["id"])


def serve_gateway(
    gateway: Gateway,
    load: Callable[[str], NamedPatch],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    admin_port: int | None = None,
    reload: Callable[[], list[dict[str, object]]] | None = None,
) -> None:
    """Serve until the process is stopped. Blocks.

    Args:
        gateway ([`Gateway`]), load (`Callable`):
            From [`open_gateway`].
        host (`str`), port (`int`):
            Where clients ask.
        admin_port (`int`, *optional*):
            Where the operator asks, on 127.0.0.1; None: nowhere.
        reload (`Callable`, *optional*):
            Reads a changed lock, as [`reload_lock`] does: at `POST /lock` of the operator, and at the signal SIGHUP.

    Raises:
        MissingExtraError: `uvicorn` or `starlette` is not installed.
    """
    uvicorn = import_extra("uvicorn", "uvicorn", "serving", "The gateway")
    quiet = {"access_log": False, "log_level": "warning"}
    servers = [uvicorn.Server(uvicorn.Config(gateway_app(gateway), host=host, port=port, **quiet))]
    if admin_port is not None:
        config = uvicorn.Config(admin_app(gateway.patches, load, reload), host="127.0.0.1", port=admin_port, **quiet)
        servers.append(uvicorn.Server(config))

    async def both() -> None:
        if reload is not None:
            _reload_at_hangup(asyncio.get_running_loop(), reload)
        await asyncio.gather(*(server.serve() for server in servers))

    # Embeddings travel by HTTP, and `torch.load` reads no checksum; it takes most of the time of `torch.save`.
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        asyncio.run(both())
    finally:
        torch.serialization.set_crc32_options(before)


def _reload_at_hangup(loop: asyncio.AbstractEventLoop, reload: Callable[[], Any]) -> None:
    """Read the lock anew when the process gets SIGHUP, where there is that signal. A lock that is wrong is logged."""

    def work() -> None:
        try:
            reload()
        except PolicyPatchError as error:
            logger.error("The lock was not taken, what was served before goes on: %s: %s", type(error).__name__, error)

    hangup = getattr(signal, "SIGHUP", None)
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; or not the main thread
        if hangup is not None:
            loop.add_signal_handler(hangup, lambda: loop.run_in_executor(None, work))
