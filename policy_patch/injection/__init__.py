"""How the vectors of a stack get in front of a frozen backbone, exactly and provably.

This room knows no patch names, no files and no Hub: `policy_patch.model` gives it vectors and a base.

The path of one call. N is the number of vectors, `length` the number of columns of text; `bos` is 1 if all rows begin
with BOS and the vectors go after it, otherwise 0:

    PolicyPatchModel.forward / .generate / .base_model              model/calls.py
      |  stacks of the call: one for all rows, or one for each      stacks.py
      |  inside `disable_patch()` there are none                    disabling.py
      |  generate only: room in a static cache, inference mode      generation.py  static_cache.py  inference.py
      v
    Injection.active(stacks)  sets CURRENT_CALL for this thread     injection.py  patched_call.py
      v
    the base's own forward or generate; each run of its backbone passes the hooks (hooks.py):
      v
    _before   is this run one of the call's?                        patched_call.py
      |       arguments without meaning with a patch are refused    call_inputs.py  caches.py
      |
      +-- the cache is empty: _start
      |     where padding, BOS and vectors go in each row           layout.py
      |     is there a position for every column?                   lengths.py
      |     |
      |     +-- cached, where it is exact
      |     |     run [BOS][vectors] once, or take what was kept    priming.py  base/state.py
      |     |       (1, bos + N, hidden) goes in
      |     |       keys, values (1, heads, bos + N, head_dim) stay
      |     |     put them into the cache of all rows               growing_cache.py
      |     |       (batch, heads, bos + N, head_dim)
      |     |     cut the first column of the text if bos is 1
      |     |       input_ids (batch, length - bos)
      |     |
      |     +-- concat, everywhere else
      |           put the vectors between the token embeddings      layout.py
      |             inputs_embeds (batch, N + length, hidden)
      |     both: attention_mask (batch, N + length) if there is one, positions with the vectors
      |
      +-- the cache holds text: _continue
      |     does it begin with the vectors of this call?            patched_cache.py
      |     attention_mask (batch, N + text so far) if there is one, positions moved by N
      |
      |       note how many columns go in, and how many the cache has   proof.py
      v
    the backbone runs
      v
    _after    did all columns come out, did the cache grow?         proof.py
      |       keep the outputs of real tokens; BOS gets that of the last vector
      |         last_hidden_state (batch, length, hidden)           layout.py
      |       note on the cache which patches it begins with        patched_cache.py
      v
    the base's head: logits (batch, length, vocabulary)
      v
    _after_base, and the end of `active`: no run of the backbone proved the vectors? PatchNotAppliedError
      v
    the cache that is returned tells its length without vectors     patched_cache.py

Before its first call a base is checked in these ways (`self_check.py`), on a narrow copy with few layers if one can be
made (`few_layers.py`). The findings decide between `cached` and `concat` (`findings.py`); a base on which `concat` is
not exact is refused.

To change ...                                         read ...
    what exact means                                  the definition at the top of `injection.py`
    when `cached` is taken                            `Injection._fits_cache` and `Injection._start`
    where a column goes, masks, positions             `layout.py`
    when a kept prefix is computed again              `priming.py`, `base/state.py`
    which arguments are refused                       `call_inputs.py`; caches: `caches.py`, `patched_cache.py`
    what counts as proof                              `proof.py`
    how long text and vectors may be                  `lengths.py`; how a base is asked: `length_switch.py`
    which code of a caller meets the plain base       `PatchedCall.asks` in `patched_call.py`
    what is checked before a base carries a patch     `self_check.py`
    static caches, assisted decoding                  `generation.py`
    what a copy or a pickle of the base carries       `hooks.py`

The files, from the ground up:
    stacks.py         the vectors of some patches in order, and which rows of a batch get which
    layout.py         where the columns of a batch go, and which outputs belong to real tokens
    lengths.py        whether vectors and text fit the positions of the base
    caches.py         what a cache of transformers holds
    growing_cache.py  a cache that allocates ahead, so that a step does not copy it
    static_cache.py   a static cache for which `generate` makes no masks
    call_inputs.py    the arguments of one run of the backbone, and refusals
    proof.py          the traces that a run must show if the vectors took part in it
    patched_call.py   one call, and where the hooks find it
    patched_cache.py  a cache that begins with vectors
    priming.py        keys and values of `[BOS][vectors]`, computed once and kept
    findings.py       the results of the check of a base
    hooks.py          the form of the hooks
    injection.py      the hooks, which bring all of these together
    few_layers.py, length_switch.py, self_check.py   what is exact on a base, found out by running it
    generation.py, inference.py                      what `generate` is given, and whether inference mode is safe
    disabling.py                                     where `disable_patch()` holds
"""
