"""The base: the frozen model that a patch is made for. Its architecture, its identity, and what it supports.

A base is read here, and never changed. How a patch is put in front of it is the business of `policy_patch.injection`.

A fingerprint (`fingerprint.py`) is how a patch knows its base again. It is made of:
    sizes.py            layers, heads, widths, rows of the embeddings
    tokenizer_hash.py   one hash of the tokenizer
    settings.py         the settings of the configuration that change a forward pass
    weights.py          which weights are sampled, and whether the head is tied
    weight_samples.py   a few values of each of them
    probe.py            log-probabilities of the base at a few places of a fixed sequence of ids
`recorded_fingerprint.py` reads the one of a patch, `comparison.py` compares it with the base at hand. `state.py` is for
something else: whether a base in this process has changed since the last call.
"""
