"""How the vectors of a stack get in front of a frozen backbone, exactly and provably."""
