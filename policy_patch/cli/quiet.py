"""Keeps the notices of libraries off stderr, and in a pipe all progress bars, so that a log holds our messages alone.

Our own messages are printed by `console.py`. A user's own settings of the same variables stay as they are.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Read by transformers, of which errors are still shown, and by datasets: TRL makes it show ten bars before a training.
_NOTICES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
# Read by tqdm and huggingface_hub, whose setting transformers takes over, when they are imported.
_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
# torchao 0.18 warns of kernels that were built for other machines, torch 2.13 of torchao's enums, and huggingface_hub
# 2.4 of each request that it repeats; our error follows if none succeeds.
_LOGGERS = ("torchao", "torch.utils._pytree", "huggingface_hub.utils._http")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Switch off notices of libraries, and their progress bars if stderr is no terminal, for this process and others.

    Enter it before the libraries are imported: some read their settings only then.
    """
    variables = _NOTICES | ({} if sys.stderr.isatty() else _BARS)
    added = {name: text for name, text in variables.items() if name not in os.environ}
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    os.environ.update(added)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in added:
            os.environ.pop(name, None)
