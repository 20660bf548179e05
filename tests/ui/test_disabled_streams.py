"""Gradio runs each step of a generator in a context of its own; a `disable_patch()` within it still holds."""

import asyncio
from collections.abc import Iterator

import pytest

from policy_patch.injection.disabling import Disabling


def test_a_generator_that_gradio_runs_stays_within_its_block_and_nobody_else_is():
    utils = pytest.importorskip("gradio.utils")
    disabling = Disabling()

    def stream() -> Iterator[bool]:
        with disabling.block():
            yield disabling.holds()
            yield disabling.holds()
        yield disabling.holds()

    async def page() -> list:
        return [(inside, disabling.holds()) async for inside in utils.SyncToAsyncIterator(stream(), limiter=None)]

    assert asyncio.run(page()) == [(True, False), (True, False), (False, False)]
