"""`python -m policy_patch.cli`, the same as the command `policy-patch`.

The commands are listed in `cli/__init__.py`.
"""

import sys

from policy_patch.cli import main

sys.exit(main())
