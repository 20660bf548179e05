"""A launched process that has done its work ends with code 0, whatever torch's threads still hold."""

import subprocess
import sys

import pytest

from tests.processes import PATIENCE, started

# Without `end_after_collectives` about every second launch aborts (torch 2.13), so there are several.
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
