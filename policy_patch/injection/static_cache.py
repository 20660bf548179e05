"""A static cache that can begin with vectors, because `generate` prepares no masks for it.

For transformers' `StaticCache` it prepares 4-D masks as long as the text, without columns for the vectors.
`generation.py` decides when this cache is used and how long it is.
"""

from transformers import StaticCache


class PatchStaticCache(StaticCache):
    """A [`~transformers.StaticCache`] that declares itself not compilable, so that masks are left to the backbone.

    This also stops `generate` from compiling the base by itself; compile its `forward` if you want that. A backbone may
    build no mask for such a cache and would then attend to its empty columns, so `injection.py` always gives one.
    """

    is_compileable = False
