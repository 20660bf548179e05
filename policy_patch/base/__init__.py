"""The base: the frozen model that a patch is made for. Its architecture, its identity, and what it supports.

A base is read here, and never changed. `policy_patch.injection` puts a patch in front of its input.

By a fingerprint (`fingerprint.py`) a patch recognises its base. It consists of:
    sizes.py            layers, heads, widths, rows of the embeddings
    tokenizer_hash.py   one hash of the tokenizer
    settings.py         the settings of the configuration that change a forward pass
    weights.py          which weights are sampled, and whether the head is tied
    weight_samples.py   a few values of each weight
    probe.py            log-probabilities of the base at a few places of a fixed sequence of ids
`recorded_fingerprint.py` reads the fingerprint of a patch, and `comparison.py` compares it with a base. `state.py` has
another purpose: it tells whether a base in this process has changed since the last call.
"""
