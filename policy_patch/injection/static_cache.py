"""A static cache that can begin with vectors: `generate` makes it no masks of its own.

For transformers' `StaticCache` it makes 4-D masks as long as the text, in which columns for vectors are missing. Who
needs one, and how long, is the business of `generation.py`.
"""

from transformers import StaticCache


class PatchStaticCache(StaticCache):
    """A [`~transformers.StaticCache`] that says it is not made for compiling, which leaves masks to the backbone.

    That also keeps `generate` from compiling the base by itself; compile its `forward` where you want that. A backbone
    may leave out the mask of such a cache, and would see its empty columns: `injection.py` always gives one.
    """

    is_compileable = False
