"""What is known of a base that carries a patch: which ways of injection are exact on it, and how long texts may be.

`self_check.py` finds it out, `injection.py` goes by it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Findings:
    """What the self-check found out about a base. Nothing is taken for granted: the defaults are what is safe.

    Args:
        cacheable (`bool`, *optional*, defaults to `False`):
            The `cached` way is exact and may be taken.
        unequal (`bool`, *optional*, defaults to `False`):
            The `cached` way is exact for rows with patches of different lengths.
        gaps (`bool`, *optional*, defaults to `False`):
            The `cached` way is exact for rows padded on the left, whose padding lies between vectors and text.
        paddable (`bool`, *optional*, defaults to `True`):
            The `concat` way is exact for rows padded on the left. Where it is not, such a batch is refused.
        many_at_once (`bool`, *optional*, defaults to `False`):
            Several tokens in one step from a cache are exact. Some recurrent layers take one at a time.
        stateful (`bool`, *optional*, defaults to `False`):
            The cache of the base holds states of recurrent layers alone.
        length_switch (`int`, *optional*):
            Number of positions beyond which the base turns all positions differently (`longrope`, `dynamic` rotary
            embeddings). None for a base whose positions do not depend on the length of the text.
        grows_beyond (`bool`, *optional*, defaults to `False`):
            Beyond the switch each longer text turns positions differently again (`dynamic`).
    """

    cacheable: bool = False
    unequal: bool = False
    gaps: bool = False
    paddable: bool = True
    many_at_once: bool = False
    stateful: bool = False
    length_switch: int | None = None
    grows_beyond: bool = False
