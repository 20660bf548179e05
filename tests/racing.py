"""Processes that save into one folder and read from it at once: `python -m tests.racing FOLDER WHAT TIMES`.

It prints what it saw, as JSON, and ends with an error at the first folder that is not one patch, whole.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch

from policy_patch import PolicyPatchConfig
from policy_patch.patch.folder import read_patch_folder, write_patch_folder

forking = get_context("fork")  # the start of an interpreter takes seconds, and no thread is running here


def patch(number: int) -> tuple[PolicyPatchConfig, torch.Tensor]:
    """Return a patch whose version, risk, length and vectors all say `number`."""
    config = PolicyPatchConfig(risk="r" * (number % 50), patch_version=f"{number}.0.0")
    return config, torch.full((1 + number % 7, 8), float(number))


def number_in(folder: Path) -> int:
    config, vectors = read_patch_folder(folder)
    number = int(vectors[0, 0])
    expected, expected_vectors = patch(number)
    assert (config.risk, config.patch_version) == (expected.risk, expected.patch_version)
    assert torch.equal(vectors, expected_vectors)
    return number


def start(action: Callable, *arguments) -> "forking.Process":
    process = forking.Process(target=action, args=arguments)
    process.start()
    return process


def end(*started: "forking.Process") -> None:
    for process in started:
        process.join()
        assert process.exitcode == 0, process.exitcode


def save_once_each(folder: Path, times: int, number: int, together) -> None:
    for turn in range(times):
        together.wait()
        write_patch_folder(folder / str(turn), *patch(number))


def two_savers(folder: Path, times: int) -> dict[str, int]:
    """Both save into the same new folder at the same moment, `times` times."""
    together = forking.Barrier(2)
    end(*(start(save_once_each, folder, times, number, together) for number in (1, 2)))
    winners = [number_in(folder / str(turn)) for turn in range(times)]
    assert all(len(os.listdir(folder / str(turn))) == 2 for turn in range(times)), "something was left"
    return {"first": winners.count(1), "second": winners.count(2)}


def save_without_end(folder: Path, numbers: range) -> None:
    for number in numbers:
        write_patch_folder(folder, *patch(number))


def reading(folder: Path, times: int, savers: int) -> dict[str, int]:
    """Read `times` times while others save over and over."""
    write_patch_folder(folder, *patch(0))
    started = [start(save_without_end, folder, range(1 + who, 10**9, savers)) for who in range(savers)]
    try:
        seen = [number_in(folder) for _ in range(times)]
    finally:
        for process in started:
            process.kill()
            process.join()
    if savers == 1:
        assert seen == sorted(seen), "an older patch after a newer one"
    return {"read": len(seen), "different": len(set(seen)), "last": number_in(folder)}


def saver_and_reader(folder: Path, times: int) -> dict[str, int]:
    """One saves over and over, one reads."""
    return reading(folder, times, 1)


def savers_and_reader(folder: Path, times: int) -> dict[str, int]:
    """Two save over and over, so that the same bytes come and go; one reads."""
    return reading(folder, times, 2)


def read_without_end(folder: Path) -> None:
    while True:
        number_in(folder)


def kills(folder: Path, times: int) -> dict[str, int]:
    """Of two savers and a reader beside them the savers are killed, one or both, in the middle of whatever they do."""
    drawn, interrupted = random.Random(0), 0
    write_patch_folder(folder, *patch(0))
    reader = start(read_without_end, folder)
    for turn in range(times):
        savers = [start(save_without_end, folder, range(turn, 10**9, 1 + who)) for who in range(2)]
        time.sleep(0.01 + drawn.random() / 20)
        for process in drawn.sample(savers, 2):
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            interrupted += len(os.listdir(folder)) > 2
            number_in(folder)
    assert reader.is_alive(), "the reader ended, which it does for a folder that does not load alone"
    reader.kill()
    write_patch_folder(folder, *patch(5))
    assert number_in(folder) == 5 and len(os.listdir(folder)) == 2, "what the dead left is not swept"
    return {"kills": 2 * times, "interrupted": interrupted}


if __name__ == "__main__":
    torch.set_num_threads(1)
    done = {one.__name__: one for one in (two_savers, saver_and_reader, savers_and_reader, kills)}
    print(json.dumps(done[sys.argv[2]](Path(sys.argv[1]), int(sys.argv[3]))))
