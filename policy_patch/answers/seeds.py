"""The seed of each request to a sampler that is not ours: a server or an engine.

It depends on the run's seed and the prompt alone, so that a resumed run sends the same one. Our own sampling draws its
random numbers in `sampling.py`.
"""

import hashlib


def request_seed(seed: int, prompt: str, occurrence: int, sample: int) -> int:
    """Return a number from 0 to 2**31 - 1 that depends on all four arguments.

    Args:
        seed (`int`):
            Seed of the run.
        prompt (`str`):
            Text of the prompt.
        occurrence (`int`):
            Number of equal prompts before it in the run.
        sample (`int`):
            Number of the first answer that the request asks for.
    """
    facts = f"{seed}\0{occurrence}\0{sample}\0{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(facts).digest()[:4], "little") & 0x7FFFFFFF
