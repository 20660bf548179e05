"""Names in reports, tables and cards of the systems that an evaluation can compare.

`evaluation/systems.py` makes the systems.
"""

BASE, TEACHER, SAFE_PROMPT, UNTRAINED, PATCH = "base", "teacher", "safe prompt", "untrained patch", "patch"
EQUAL_LENGTH = "safe prompt, equal length"  # a safety sentence repeated until it is as long as the patch
SERVED = "served"  # what a server answers, which should be the patch; beside "patch", which runs in this process
