"""`python -m policy_patch.cli`, the same as the command `policy-patch`.

`accelerate launch -m policy_patch.cli` starts it in several processes; nothing else belongs here.
"""

import sys

from policy_patch.cli import main

sys.exit(main())
