"""The gateway's second application, for its operator alone: put a new version, roll back, remove, while requests run.

It listens on loopback only. Clients' requests are answered in `gateway.py`.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from policy_patch.errors import PolicyPatchError, ServingError
from policy_patch.extra import import_extra
from policy_patch.files.documents import parse_json
from policy_patch.hub.named_patch import NamedPatch
from policy_patch.serving.served_patches import ServedPatches

logger = logging.getLogger(__name__)

_MOST_BYTES = 2**16  # of a request; our choice


def admin_app(
    patches: ServedPatches,
    load: Callable[[str], NamedPatch],
    reload: Callable[[], list[dict[str, object]]] | None = None,
) -> Any:
    """Return the ASGI application of the operator.

    `GET /patches` lists what is served. `POST /patches` with `{"patch": "tox=org/tox-patch@v1.3.0"}` makes a version
    current; requests under way keep theirs, and the old version is still there under its own name. `POST
    /patches/NAME/rollback` makes the one before current again. `DELETE /patches/NAME/VERSION` removes one.
    `POST /lock` reads the lock file again, where the gateway serves one; then only the lock changes what is served.

    Args:
        patches ([`ServedPatches`]):
            What is served.
        load (`Callable[[str], NamedPatch]`):
            Reads and checks a patch. It runs in a thread, so requests go on meanwhile.
        reload (`Callable`, *optional*):
            Reads the lock file and serves what it pins; None if the gateway serves no lock.

    Raises:
        MissingExtraError: `starlette` is not installed.
    """
    import_extra("starlette", "starlette", "serving", "The gateway")
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    changing = asyncio.Lock()  # one change at a time

    def answered(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def answer(request: Any) -> Any:
            if "origin" in request.headers or request.url.hostname not in ("127.0.0.1", "localhost", "::1"):
                return JSONResponse({"error": "From this machine, and from no browser."}, status_code=403)
            async with changing:
                try:
                    return JSONResponse(await work(request))
                except PolicyPatchError as error:
                    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)

        return answer

    async def listed(request: Any) -> Any:
        return {"patches": patches.models()}

    async def put(request: Any) -> Any:
        spec = await _spec(request)
        patch = await asyncio.to_thread(load, spec)
        before = patches.put(patch)
        _tell("put", patch.name, before, patch.config.patch_version)
        return {"patch": patch.facts(), "before": before}

    async def follow(request: Any) -> Any:
        if reload is None:
            raise ServingError("This gateway was started without a lock; start it with `--lock policy-patch.lock`.")
        return {"patches": await asyncio.to_thread(reload)}

    async def roll_back(request: Any) -> Any:
        _check_no_lock(reload)
        name = request.path_params["name"]
        now = patches.roll_back(name)
        _tell("rolled back", name, None, now)
        return {"name": name, "version": now}

    async def remove(request: Any) -> Any:
        _check_no_lock(reload)
        name, version = request.path_params["name"], request.path_params["version"].removeprefix("v")
        patches.remove(name, version)
        _tell("removed", name, version, None)
        return {"name": name, "removed": version}

    return Starlette(
        routes=[
            Route("/patches", answered(listed), methods=["GET"]),
            Route("/patches", answered(put), methods=["POST"]),
            Route("/lock", answered(follow), methods=["POST"]),
            Route("/patches/{name}/rollback", answered(roll_back), methods=["POST"]),
            Route("/patches/{name}/{version}", answered(remove), methods=["DELETE"]),
        ]
    )


def _check_no_lock(reload: Any) -> None:
    if reload is not None:
        raise ServingError(
            "This gateway serves exactly what its lock pins. Change the lock (`policy-patch rollback`), and let the "
            "gateway read it: `POST /lock`, or `kill -HUP`."
        )


async def _spec(request: Any) -> str:
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > _MOST_BYTES:
            raise ServingError(f"The request has more than {_MOST_BYTES:,} bytes.")
    try:
        spec = parse_json(content.decode())["patch"]
    except (ValueError, KeyError, TypeError):
        spec = None
    if not isinstance(spec, str):
        raise ServingError('Expected a body like {"patch": "tox=org/tox-patch@v1.3.0"}.')
    return spec


def _tell(what: str, name: str, before: str | None, now: str | None) -> None:
    logger.info("%s", json.dumps({"admin": what, "patch": name, "before": before, "now": now}))
