"""The Space in a process of its own, and visitors who talk to it over HTTP as a browser does."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from tests.conftest import FAKE_HUB
from tests.processes import wait_until_served

APP = Path(__file__).parents[2] / "spaces" / "policy_patch_demo" / "app.py"
# A visitor who went away is noticed sooner than in life; everything else is as the Space has it.
_SOONER = """import runpy
import policy_patch.ui.visitors as visitors
visitors.GONE_SECONDS = 2.0
runpy.run_path({!r}, run_name="__main__")"""


@contextlib.contextmanager
def running_space(folder: Path, **environment: str) -> Iterator["Space"]:
    """Start the Space with its home, its temporary files and its log below `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "tmp").mkdir(parents=True)
    words = {
        "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": FAKE_HUB.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "hf"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(APP.parents[2]),
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _SOONER.format(str(APP))], env=kept | words | environment, stdout=file,
            stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
        try:
            wait_until_served(process, port, log)
            with Space(f"http://127.0.0.1:{port}", folder) as space:
                yield space
        finally:
            process.terminate()
            process.wait(20)


class Space:
    """A running Space: its address, its folder, its client."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder, self.log = address, folder, folder / "log.txt"
        limits = httpx2.Limits(max_connections=64, keepalive_expiry=1)  # the server's own is 5
        self.client = httpx2.Client(base_url=address, timeout=120, limits=limits, trust_env=False)
        self.config = self.client.get("/config").json()
        self.functions = {one["api_name"]: one["id"] for one in self.config["dependencies"]}

    def __enter__(self) -> "Space":
        return self

    def __exit__(self, *ended: object) -> None:
        self.client.close()

    def temporary(self) -> list[str]:
        """Return the page's temporary folders, one for each patch that is fetched or trained."""
        return sorted(path.name for path in (self.folder / "tmp").glob("policy-patch-page-*/*"))


class Visitor:
    """Somebody with a browser: a session, and requests by the queue."""

    def __init__(self, space: Space, session: str | None = None) -> None:
        self.space, self.session = space, session or uuid.uuid4().hex[:11]

    def join(self, function: str | int, *data: Any) -> httpx2.Response:
        """Put a request into the queue, and do not wait for its answer."""
        index = self.space.functions[function] if isinstance(function, str) else function
        body = {"fn_index": index, "data": list(data), "session_hash": self.session}
        return self.space.client.post("/gradio_api/queue/join", json=body)

    def messages(self) -> Iterator[dict]:
        """Yield what the server says to this session; the connection closes with the iterator."""
        asked = {"session_hash": self.session}
        with self.space.client.stream("GET", "/gradio_api/queue/data", params=asked) as lines:
            for line in lines.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def ask(self, function: str | int, *data: Any) -> dict:
        """Return the last message about one request."""
        response = self.join(function, *data)
        assert response.status_code == 200, response.text
        event = response.json()["event_id"]
        mine = [one for one in self.messages() if one.get("event_id") == event]
        return [one for one in mine if one["msg"] == "process_completed"][-1]

    def answer(self, function: str | int, *data: Any) -> list:
        """Return the outputs of one request."""
        message = self.ask(function, *data)
        assert message["success"], message
        return message["output"]["data"]

    def offered(self) -> list[str]:
        """Return the patches on offer, as the page shows them when it opens."""
        return [label for label, _ in self.answer("on_offer")[0]["choices"]]

    def add(self, source: Any, chosen: list[str] | None = None) -> str | None:
        """Name a patch, and return what is said to be wrong, if anything."""
        return note_in(self.answer("more", source, chosen or [])[2:])

    def write(self, labels: list[str], prompt: str = "Jack thinks", tokens: Any = 4) -> list:
        """Return both columns and what is said to be wrong, if anything."""
        base, patched, *notes = self.answer("write", prompt, labels, 0, 1.0, 0.9, tokens, False)
        return [base, patched, note_in(notes)]


def note_in(values: list) -> str | None:
    """Return the HTML of the note that these outputs show, if they show one."""
    shown = [one["value"] for one in values if isinstance(one, dict) and one.get("visible") and one.get("value")]
    assert len(shown) <= 1
    return shown[0] if shown else None


def disk_words(space: Space) -> list[str]:
    """What would tell a visitor about the server's disk."""
    here = [str(space.folder), str(Path.home()), sys.prefix, str(APP.parents[1]), "site-packages", "Traceback"]
    return [*here, "/tmp/", "File \"", ".py\"", "hf_alice"]  # fmt: skip


def assert_tells_nothing(space: Space, text: str) -> None:
    """Fail if a text that a visitor got tells about the server."""
    assert not [word for word in disk_words(space) if word in text], text[:2000]
