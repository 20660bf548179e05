"""The self-check's findings about a base: which ways of injection are exact on it, and how long texts may be.

`self_check.py` produces them, and `injection.py` follows them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Findings:
    """The findings of the self-check about one base. The defaults are the safe ones, for a base not yet checked.

    Args:
        cacheable (`bool`, *optional*, defaults to `False`):
            The `cached` way is exact and may be used.
        unequal (`bool`, *optional*, defaults to `False`):
            The `cached` way is exact for rows with patches of different lengths.
        gaps (`bool`, *optional*, defaults to `False`):
            The `cached` way is exact for rows padded on the left, where padding lies between vectors and text.
        paddable (`bool`, *optional*, defaults to `True`):
            The `concat` way is exact for rows padded on the left. If not, such a batch is refused.
        many_at_once (`bool`, *optional*, defaults to `False`):
            A step of several tokens from a cache is exact. Some recurrent layers accept only one at a time.
        stateful (`bool`, *optional*, defaults to `False`):
            The cache of the base holds only states of recurrent layers.
        length_switch (`int`, *optional*):
            Number of positions beyond which the base rotates all positions differently (`longrope`, `dynamic` rotary
            embeddings). None for a base whose rotations do not depend on the length of the text.
        grows_beyond (`bool`, *optional*, defaults to `False`):
            Beyond the switch the rotations change again with each longer text (`dynamic`).
    """

    cacheable: bool = False
    unequal: bool = False
    gaps: bool = False
    paddable: bool = True
    many_at_once: bool = False
    stateful: bool = False
    length_switch: int | None = None
    grows_beyond: bool = False
