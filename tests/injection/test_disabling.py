"""Tests of `injection.disabling`: `disable_patch()` holds for the code of its block, and for nobody else.

A generator waits inside its block while its caller goes on, and each of its steps may run in another context.
"""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

import pytest

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.injection.disabling import Disabling
from tests.definition import padded
from tests.tiny_models import BOS, tiny_model


@pytest.fixture
def disabling() -> Disabling:
    """No block yet."""
    return Disabling()


def in_new_contexts(stream: Iterator) -> Iterator:
    """Run each step of a generator in a context of its own, as Gradio and Starlette do."""
    while True:
        try:
            yield contextvars.copy_context().run(next, stream)
        except StopIteration:
            return


# Plain blocks


def test_a_block_holds_until_it_is_left_also_by_an_error(disabling):
    assert not disabling.holds()
    with disabling.block():
        assert disabling.holds()
    assert not disabling.holds()
    with pytest.raises(RuntimeError, match="inside"), disabling.block():
        raise RuntimeError("inside")
    assert not disabling.holds()


def test_blocks_nest_and_one_block_may_be_entered_again(disabling):
    block = disabling.block()
    with block:
        with block, disabling.block():
            assert disabling.holds()
        assert disabling.holds()
    assert not disabling.holds()
    with block:
        assert disabling.holds()
    assert not disabling.holds()


def test_the_blocks_of_one_model_are_not_those_of_another(disabling):
    with Disabling().block():
        assert not disabling.holds()


def test_functions_that_a_block_calls_are_within_it(disabling):
    def deep(depth: int) -> bool:
        return disabling.holds() if depth == 0 else deep(depth - 1)

    with disabling.block():
        assert deep(20)


def test_it_decorates_a_function_that_may_call_itself_and_run_in_threads(disabling):
    barrier, seen = threading.Barrier(2, timeout=30), []

    @disabling.block()
    def work(depth: int) -> None:
        if depth:
            work(depth - 1)
        else:
            barrier.wait()
        seen.append(disabling.holds())

    threads = [threading.Thread(target=work, args=(2,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 6
    assert not disabling.holds()


def test_an_exit_stack_ends_it(disabling):
    with ExitStack() as stack:
        stack.enter_context(disabling.block())
        assert disabling.holds()
        kept = stack.pop_all()
    assert disabling.holds()
    kept.close()
    assert not disabling.holds()


# Generators


def test_a_generator_is_within_its_block_and_whoever_takes_from_it_is_not(disabling):
    def stream() -> Iterator[bool]:
        with disabling.block():
            yield disabling.holds()
            yield disabling.holds()
        yield disabling.holds()

    steps = stream()
    found = []
    for inside in steps:
        found.append((inside, disabling.holds()))
    assert found == [(True, False), (True, False), (False, False)]


def test_each_step_may_run_in_a_context_of_its_own(disabling):
    def stream() -> Iterator[bool]:
        with disabling.block():
            yield disabling.holds()
            yield disabling.holds()
        yield disabling.holds()

    assert list(in_new_contexts(stream())) == [True, True, False]
    assert not disabling.holds()


def test_two_generators_at_once_have_a_block_each(disabling):
    def stream(disabled: bool) -> Iterator[bool]:
        with disabling.block() if disabled else ExitStack():
            yield disabling.holds()
            yield disabling.holds()

    with_it, without = stream(True), stream(False)
    found = [next(with_it), next(without), next(without), next(with_it)]
    assert found == [True, False, False, True]
    with_it.close()
    without.close()
    assert not disabling._of_generators


def test_one_function_that_runs_twice_at_once_is_told_apart(disabling):
    def stream(until: int) -> Iterator[bool]:
        if until:
            with disabling.block():
                yield disabling.holds()
        yield disabling.holds()

    first, second = stream(1), stream(0)
    assert next(first) is True
    assert next(second) is False
    assert next(first) is False


@pytest.mark.parametrize("end", ["close", "throw", "forgotten"])
def test_a_generator_that_ends_early_leaves_nothing_behind(disabling, end):
    def stream() -> Iterator[bool]:
        with disabling.block():
            while True:
                yield disabling.holds()

    steps = stream()
    assert next(steps)
    if end == "close":
        steps.close()
    elif end == "throw":
        with pytest.raises(KeyError):
            steps.throw(KeyError("stop"))
    else:
        del steps
    assert not disabling._of_generators and not disabling.holds()


def test_what_a_generator_calls_and_takes_from_is_within_its_block(disabling):
    def inner() -> Iterator[bool]:
        yield disabling.holds()

    def stream() -> Iterator[bool]:
        with disabling.block():
            yield from inner()
            yield from list(inner())
            yield any(disabling.holds() for _ in range(1))

    assert list(in_new_contexts(stream())) == [True, True, True]


def test_an_exit_stack_within_a_generator_is_the_generator_s(disabling):
    def stream() -> Iterator[bool]:
        with ExitStack() as stack:
            stack.enter_context(disabling.block())
            yield disabling.holds()
            yield disabling.holds()
        yield disabling.holds()

    steps = stream()
    found = []
    for inside in in_new_contexts(steps):
        found.append((inside, disabling.holds()))
    assert found == [(True, False), (True, False), (False, False)]


def test_the_body_of_a_decorated_generator_is_the_block_and_not_its_caller(disabling):
    @disabling.block()
    def stream() -> Iterator[bool]:
        yield disabling.holds()
        yield disabling.holds()

    steps = stream()
    assert not disabling.holds()
    assert next(steps) is True
    assert not disabling.holds()
    assert next(steps) is True


def test_the_body_of_a_decorated_coroutine_and_asynchronous_generator_is_the_block(disabling):
    @disabling.block()
    async def answer() -> bool:
        await asyncio.sleep(0)
        return disabling.holds()

    @disabling.block()
    async def stream() -> AsyncIterator[bool]:
        yield disabling.holds()

    async def main() -> list[bool]:
        return [await answer(), *[value async for value in stream()], disabling.holds()]

    assert asyncio.run(main()) == [True, True, False]


def test_a_helper_that_enters_for_a_generator_enters_its_block(disabling):
    def enter(stack: ExitStack) -> None:
        stack.enter_context(disabling.block())

    def stream() -> Iterator[bool]:
        with ExitStack() as stack:
            enter(stack)
            yield disabling.holds()

    steps = stream()
    assert next(steps) is True
    assert not disabling.holds(), "the caller of a generator that waits"
    steps.close()
    assert not disabling.holds()


def test_a_block_that_is_left_in_another_thread_is_over_everywhere(disabling):
    block = disabling.block()
    block.__enter__()
    assert disabling.holds()
    other = threading.Thread(target=block.__exit__, args=(None, None, None))
    other.start()
    other.join()
    assert not disabling.holds()


# Context managers of others, which are generators that wait on purpose


def test_a_context_manager_that_is_built_on_it_holds_for_the_code_in_its_block(disabling):
    @contextmanager
    def plainly() -> Iterator[None]:
        with disabling.block():
            yield

    with plainly():
        assert disabling.holds()
        with plainly():
            assert disabling.holds()
        assert disabling.holds()
    assert not disabling.holds()

    @plainly()
    def work() -> bool:
        return disabling.holds()

    assert work()
    assert not disabling.holds()


def test_such_a_context_manager_within_a_generator_is_the_generator_s(disabling):
    @contextmanager
    def plainly() -> Iterator[None]:
        with disabling.block():
            yield

    @contextmanager
    def twice() -> Iterator[None]:
        with plainly(), ExitStack() as stack:
            stack.enter_context(plainly())
            yield

    def stream(manager) -> Iterator[bool]:
        with manager():
            yield disabling.holds()
            yield disabling.holds()
        yield disabling.holds()

    for manager in (plainly, twice):
        found = [(inside, disabling.holds()) for inside in in_new_contexts(stream(manager))]
        assert found == [(True, False), (True, False), (False, False)]


# Threads and tasks


def test_another_thread_is_not_within_the_block(disabling):
    seen = []
    with disabling.block():
        thread = threading.Thread(target=lambda: seen.append(disabling.holds()))
        thread.start()
        thread.join()
    assert seen == [False]


def test_a_generator_that_is_run_by_several_threads_stays_within_its_block(disabling):
    def stream() -> Iterator[bool]:
        with disabling.block():
            for _ in range(3):
                yield disabling.holds()

    steps, seen = stream(), []
    for _ in range(3):
        thread = threading.Thread(target=lambda: seen.append(next(steps)))
        thread.start()
        thread.join()
        assert not disabling.holds()
    assert seen == [True, True, True]


def test_tasks_that_take_turns_each_have_their_own(disabling):
    async def task(disabled: bool, found: list) -> None:
        with disabling.block() if disabled else ExitStack():
            for _ in range(3):
                found.append(disabling.holds())
                await asyncio.sleep(0)

    async def both() -> tuple[list, list]:
        with_it, without = [], []
        await asyncio.gather(task(True, with_it), task(False, without))
        return with_it, without

    assert asyncio.run(both()) == ([True] * 3, [False] * 3)


def test_an_asynchronous_generator_is_within_its_block_and_its_reader_is_not(disabling):
    async def stream() -> AsyncIterator[bool]:
        with disabling.block():
            for _ in range(2):
                await asyncio.sleep(0)
                yield disabling.holds()

    async def read() -> list:
        return [(inside, disabling.holds()) async for inside in stream()]

    assert asyncio.run(read()) == [(True, False), (True, False)]
    assert not disabling._of_generators


def test_an_asynchronous_context_manager_that_is_built_on_it_holds_in_its_task(disabling):
    @asynccontextmanager
    async def plainly() -> AsyncIterator[None]:
        with disabling.block():
            await asyncio.sleep(0)
            yield

    async def work() -> list[bool]:
        found = []
        async with plainly():
            found.append(disabling.holds())
            await asyncio.sleep(0)
            found.append(disabling.holds())
        found.append(disabling.holds())
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(plainly())
            found.append(disabling.holds())
        found.append(disabling.holds())
        return found

    assert asyncio.run(work()) == [True, True, False, True, False]


def test_a_generator_whose_steps_an_event_loop_gives_to_threads_stays_within_its_block(disabling):
    def stream() -> Iterator[bool]:
        with disabling.block():
            yield disabling.holds()
            yield disabling.holds()
        yield disabling.holds()

    async def page() -> list:
        steps, found = stream(), []
        for _ in range(3):
            found.append((await asyncio.to_thread(next, steps), disabling.holds()))
        return found

    assert asyncio.run(page()) == [(True, False), (True, False), (False, False)]


# Of a model


def test_a_model_that_streams_is_its_base_in_the_stream_alone():
    import torch

    base = tiny_model()
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=4, init="random")).eval()
    ids, mask = padded([[BOS, 5, 9], [BOS, 7]], "right")
    with torch.no_grad():
        plain, behind = base(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits

    def answers() -> Iterator[torch.Tensor]:
        with model.disable_patch():
            for _ in range(2):
                with torch.no_grad():
                    yield model(ids, attention_mask=mask).logits

    assert not torch.equal(plain, behind)
    for logits in in_new_contexts(answers()):
        assert torch.equal(logits, plain)
        with torch.no_grad():
            assert torch.equal(model(ids, attention_mask=mask).logits, behind)
