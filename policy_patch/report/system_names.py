"""Names of the systems that every evaluation may compare, as reports, tables and cards have them.

How each system gets its answers is in `evaluation/systems.py`.
"""

BASE, TEACHER, SAFE_PROMPT, UNTRAINED, PATCH = "base", "teacher", "safe prompt", "untrained patch", "patch"
SERVED = "served"  # what a server answers, which should be the patch; beside "patch", which runs in this process
