"""The seed of each request to a server or an engine, which samples by its own code.

It depends only on the run's seed and the prompt, so a resumed run sends the same seed. For our own sampling,
`sampling.py` draws the random numbers.
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
            Number of equal prompts before this one in the run.
        sample (`int`):
            Number of the first answer that the request asks for.
    """
    facts = f"{seed}\0{occurrence}\0{sample}\0{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(facts).digest()[:4], "little") & 0x7FFFFFFF
