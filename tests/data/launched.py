"""What the tests start as processes of their own, alone or several by a launcher: answers to `MANY` in a folder.

python tests/data/launched.py <folder> [limit of a file in bytes] [rank of a process that kills itself]
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from tests.answers.test_shards import MANY, SIZE, run
from tests.data.scorers import ShareOf
from tests.tiny_models import tiny_tokenizer

RANK = os.environ.get("RANK", "0")


class Counting(ShareOf):
    """The scorer of `run` by name. In the process that is to die it does so in its second shard."""

    def __init__(self, dies: bool) -> None:
        super().__init__("aeiou")
        self.dies = dies

    def score(self, texts):
        """Return the scores."""
        if self.dies and self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(texts)


def main(folder: str, limit: str = "", dies: str = "") -> None:
    """Answer, and leave the result of this process beside the folder."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    scorer, told = Counting(dies == RANK), []
    found = run(
        folder, tiny_tokenizer(), prompts=MANY, size=SIZE, scorer=scorer,
        on_progress=lambda done, total: told.append(done),
    )  # fmt: skip
    facts = {"answered": scorer.calls // 2, "told": bool(told), "result": repr(found)}
    Path(f"{folder}.process-{RANK}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
