"""Ends a run of the tests that would wait for ever, seen from the process that hands out the tests to the workers.

It is not for the limit of a single test: pytest-timeout and faulthandler keep that inside each worker (`timeout` and
`faulthandler_timeout` in pyproject.toml). It is for what they cannot see: a worker that died while processes it forked
hold its pipe open, so that pytest-xdist waits for more of it; and a run from which nothing comes any more.
"""

import contextlib
import os
import signal
import threading
import time

import psutil
import pytest

LOOK_SECONDS = 0.5
GRACE_SECONDS = 20.0  # execnet itself gives its workers 10


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "seconds without news from any worker after which the whole run ends (0: never)"
    parser.addini("silence_timeout", help_text, default="0")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        os.setsid()  # a group of its own: what a test starts can be ended with the worker that ran it
    elif config.getoption("dist", "no") != "no":
        config.pluginmanager.register(Watch(float(config.getini("silence_timeout"))), "hang-guard")


class Watch:
    """Watches the workers of a run: what dead ones leave behind is killed, and a silent run ends with a summary.

    Args:
        limit (`float`): seconds without news after which the run ends; 0 for never.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._running: dict[str, None] = {}  # names of tests, in the order they began
        self._heard = time.monotonic()
        self._hung: list[str] | None = None
        self._over = threading.Event()

    def pytest_sessionstart(self) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job: Ctrl-C would do nothing
            signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=self._look, daemon=True).start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = None
        self._heard = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when not in ("setup", "call"):  # the last of a test, or of a worker that crashed in it
            self._running.pop(report.nodeid, None)
        self._heard = time.monotonic()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self) -> None:
        self._heard = time.monotonic()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        self._heard = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._over.set()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._hung is not None:
            terminalreporter.section(f"nothing came from any worker for {self._limit:g} s", red=True)
            for name in self._hung or ["no test had begun: the workers were collecting"]:
                terminalreporter.line(f"HANGS {name}")

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            _end_what_dead_workers_left()
            if self._limit and time.monotonic() - self._heard > self._limit:
                self._hung = list(self._running)
                self._end()
                return

    def _end(self) -> None:
        """End the run as if somebody had pressed Ctrl-C; if that does not end it, without its workers, and at last by
        force."""
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_SECONDS)
        for child in _workers():
            with contextlib.suppress(psutil.Error, OSError):
                os.killpg(child.pid, signal.SIGKILL)
        time.sleep(GRACE_SECONDS)
        names = self._hung or ["no test had begun: the workers were collecting"]
        os.write(2, "".join(f"HANGS {name}, and the run does not end\n" for name in names).encode())
        os._exit(pytest.ExitCode.INTERRUPTED)


def _end_what_dead_workers_left() -> None:
    """Kill the group of each worker that is dead; pytest-xdist hears of it when nobody holds its pipe any more."""
    for child in _workers():
        # Until its exit code is fetched its number belongs to it, and no other group can have it.
        with contextlib.suppress(psutil.Error, OSError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.killpg(child.pid, signal.SIGKILL)


def _workers() -> list[psutil.Process]:
    """Return the processes that this one started; none if they change while they are listed."""
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process().children()
    return []
