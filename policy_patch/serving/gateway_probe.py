"""Asks a gateway that is about to open what a probe asks a server, so that a wrong engine is found before any client.

The gateway is served on loopback for that, with one engine at a time. The probe itself is in `probing.py`.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import Any

from policy_patch.answers.addresses import shown_address
from policy_patch.answers.probe_file import ServedProbe, read_probe
from policy_patch.errors import ServingError
from policy_patch.extra import import_extra
from policy_patch.serving.gateway import Gateway, gateway_app
from policy_patch.serving.probing import probe
from policy_patch.serving.upstreams import Upstreams

_PATIENCE = 30.0  # seconds for a server in this process to come up


def probe_gateway(
    gateway: Gateway, urls: Sequence[str], stored: str | PathLike | ServedProbe, *, bits: int = 16
) -> dict[str, str]:
    """Probe each patch of a gateway at each of its engines.

    Args:
        gateway ([`Gateway`]):
            Not yet served.
        urls (`Sequence[str]`):
            Its engines.
        stored (`str`, `os.PathLike` or [`ServedProbe`]):
            The probe, or the export or checkpoint that holds it.
        bits (`int`, *optional*, defaults to `16`):
            Of the engines' weights; see [`probe`].

    Returns:
        `dict[str, str]`: for each engine and model name, what the probe says, in words.

    Raises:
        ServingError: a patch is not active at an engine, it cannot be told, or the probe does not know the patch.
        PolicyPatchError: what [`probe`] and [`read_probe`] raise.
    """
    stored = stored if isinstance(stored, ServedProbe) else read_probe(stored)
    systems = {tuple(one["sha256"] for one in patches): name for name, patches in stored.stacks.items()}
    found = {}
    for url in urls:
        with _served(replace(gateway, upstreams=Upstreams([url]), is_logged=False)) as address:
            models = {tuple(one["sha256"] for one in each["policy_patch"]): each for each in gateway.patches.models()}
            models.pop((), None)  # the base
            for hashes, model in models.items():
                if hashes not in systems:
                    raise ServingError(
                        f"The probe holds nothing of `{model['id']}` (sha256 {hashes[0][:12]}). Export it again with "
                        "all patches that are served."
                    )
                report = probe(
                    address, stored, model=model["id"], system=systems[hashes], chat=gateway.base is None, bits=bits
                )
                [verdict] = report.addresses.values()
                if not report.is_active:
                    raise ServingError(
                        f"At {shown_address(url)} `{model['id']}` is {verdict.verdict}: {verdict.reason}"
                    )
                found[f"{shown_address(url)} {model['id']}"] = verdict.verdict
    return found


@contextmanager
def _served(gateway: Gateway) -> Iterator[str]:
    """Serve a gateway on loopback, in a thread, and give its address."""
    uvicorn: Any = import_extra("uvicorn", "uvicorn", "serving", "The gateway")
    config = uvicorn.Config(gateway_app(gateway), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + _PATIENCE
    while not server.started:
        if time.monotonic() > end or not thread.is_alive():
            raise ServingError("No server could be opened on 127.0.0.1 for the probe.")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(_PATIENCE)
