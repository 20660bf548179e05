"""`python -m policy_patch.cli`, the same as the command `policy-patch`."""

import sys

from policy_patch.cli import main

sys.exit(main())
