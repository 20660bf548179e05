"""One run per stage in TensorBoard, wandb and trackio, named after the stage, and no run left open behind it.

What is logged there is what the trainer logs; which trackers, `report_to` says. No tracker is imported here unless it
is in use.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.integrations import TensorBoardCallback, WandbCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)


def name_run(args: Any, stage: str, output_dir: str) -> Any:
    """Return `args` with the name that trackers show: the one given, or that of the folder, and the stage."""
    args.run_name = f"{args.run_name or os.path.basename(os.path.abspath(output_dir))}-{stage}"
    return args


@contextmanager
def separate_run(trainer: Any, stage: str) -> Iterator[None]:
    """Within the context a stage is trained. What it logs does not end up in the run of the stage before.

    transformers leaves wandb's run open, and the next trainer of the process would go on with it; a run that the user
    opened stays open, and gets both stages. trackio's run is closed by transformers.

    Args:
        trainer (`transformers.Trainer`):
            The trainer of the stage.
        stage (`str`):
            Name of the stage.
    """
    trackers = trainer.callback_handler.callbacks
    for tracker in trackers:
        if isinstance(tracker, TensorBoardCallback) and "TENSORBOARD_LOGGING_DIR" in os.environ:
            folder = os.path.expanduser(os.environ["TENSORBOARD_LOGGING_DIR"])
            tracker.logging_dir = os.path.join(folder, stage)
    open_wandb = [tracker for tracker in trackers if isinstance(tracker, WandbCallback) and tracker._wandb.run is None]
    status = 1
    try:
        yield
        status = 0
    finally:
        for tracker in open_wandb:
            tracker._wandb.finish(exit_code=status)
            tracker._initialized = False


def keep_base_private(trainer: Any) -> None:
    """Have wandb upload no model: with `WANDB_LOG_MODEL` transformers would send the whole base as the result."""
    for tracker in trainer.callback_handler.callbacks:
        if isinstance(tracker, WandbCallback) and tracker._log_model.is_enabled:
            tracker._log_model = type(tracker._log_model).FALSE
            logger.warning(
                "`WANDB_LOG_MODEL` is set; it would upload the whole base, and is ignored. Publish the patch with "
                "`push_to_hub`, or log its folder as an artifact."
            )
