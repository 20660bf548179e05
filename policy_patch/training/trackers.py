"""Gives each stage its own run in TensorBoard, wandb and trackio, named after the stage, and closes it afterwards.

The trainer decides what is logged, and `report_to` to which trackers. A tracker is imported only if it is used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.integrations import TensorBoardCallback, WandbCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)


def name_run(args: Any, stage: str, output_dir: str) -> Any:
    """Set the name that trackers show, in place, and return `args`.

    The name is `args.run_name`, or else the name of the folder, followed by the stage.

    Args:
        args (`transformers.TrainingArguments`):
            Settings of the stage.
        stage (`str`):
            Name of the stage.
        output_dir (`str`):
            Folder of the run.
    """
    args.run_name = f"{args.run_name or os.path.basename(os.path.abspath(output_dir))}-{stage}"
    return args


@contextmanager
def separate_run(trainer: Any, stage: str) -> Iterator[None]:
    """Give the stage that is trained within the context its own run in TensorBoard and wandb.

    transformers leaves wandb's run open, so the next trainer in the process would log to it, too. This closes it. A run
    that the user opened stays open and gets both stages. transformers closes trackio's run itself.

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
    """Prevent wandb from uploading a model: with `WANDB_LOG_MODEL`, transformers would upload the whole base."""
    for tracker in trainer.callback_handler.callbacks:
        if isinstance(tracker, WandbCallback) and tracker._log_model.is_enabled:
            tracker._log_model = type(tracker._log_model).FALSE
            logger.warning(
                "`WANDB_LOG_MODEL` is ignored, because it would upload the whole base. Publish the patch with "
                "`push_to_hub`, or log its folder as an artifact."
            )
