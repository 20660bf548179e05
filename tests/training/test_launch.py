"""Tests of `training.launch`: a launched process that has done its work ends with code 0."""

import subprocess
import sys

import pytest

from tests.processes import PATIENCE, started

# What happens at the end of a process: each word is printed by something that runs there, the last registered first.
AT_THE_END = """
import atexit
import sys
import torch
from policy_patch.training import launch

launch.time.sleep = lambda seconds: print("waited", seconds)
if sys.argv[2] == "grouped":
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
atexit.register(print, "the first")
for number in range(int(sys.argv[3])):
    launch.end_after_collectives()
    atexit.register(print, f"after call {number}")
"""


@pytest.mark.parametrize(
    ("group", "calls", "expected"),
    [
        ("grouped", 0, ["the first"]),
        ("grouped", 1, ["after call 0", "waited 0.2", "the first"]),
        ("grouped", 2, ["after call 1", "waited 0.2", "after call 0", "the first"]),
        ("alone", 1, ["after call 0", "the first"]),
    ],
)
def test_a_process_of_a_group_waits_once_at_its_end_and_another_one_never(group, calls, expected, tmp_path):
    command = [sys.executable, "-c", AT_THE_END, tmp_path / "meeting", group, calls]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert output.splitlines() == expected, errors


# Without `end_after_collectives` about every second launch aborts (torch 2.13). That the wait is there is held above;
# here it is asked whether it is still long enough.
PROGRAM = """
import sys
import torch
from policy_patch.training.launch import end_after_collectives

torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
end_after_collectives()
for _ in range(200):
    tensor = torch.ones(1000)
    work = torch.distributed.all_reduce(tensor, async_op=True)
    work.wait()
    del work, tensor
"""


@pytest.mark.parametrize("launch", range(3))
def test_processes_end_cleanly_right_after_many_collectives(launch, tmp_path):
    command = [sys.executable, "-c", PROGRAM, tmp_path / "meeting"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with started([*command, 0], **pipes) as first, started([*command, 1], **pipes) as second:
        for process in (first, second):
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output
