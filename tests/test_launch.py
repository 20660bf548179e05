"""A launched process that has done its work ends with code 0, whatever torch's threads still hold."""

import subprocess
import sys

from policy_patch.launch import leave_launch
from tests.processes import PATIENCE, started

# Without `leave_launch` one process of some launches aborts (torch 2.13).
PROGRAM = """
import sys
import torch
from policy_patch.launch import leave_launch

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
for _ in range(200):
    tensor = torch.ones(1000)
    work = torch.distributed.all_reduce(tensor, async_op=True)
    work.wait()
    del work, tensor
leave_launch()
assert not torch.distributed.is_initialized()
"""


def test_processes_end_cleanly_right_after_many_collectives(tmp_path):
    command = [sys.executable, "-c", PROGRAM, tmp_path / "meeting"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with started([*command, 0], **pipes) as first, started([*command, 1], **pipes) as second:
        for process in (first, second):
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output


def test_a_process_that_was_not_launched_has_nothing_to_leave():
    leave_launch()
