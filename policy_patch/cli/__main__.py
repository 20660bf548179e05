"""Runs the command `policy-patch` as `python -m policy_patch.cli`.

`accelerate launch -m policy_patch.cli` runs it in several processes. Nothing else belongs here.
"""

import sys

from policy_patch.cli import main

sys.exit(main())
