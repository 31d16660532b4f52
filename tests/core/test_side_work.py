"""Work beside the main thread: in order, one piece behind, and with the error that explains the others."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

import pytest

from unipruning_core.errors import OutputError, RunError
from unipruning_core.projection.side_work import meanwhile, one_behind


def test_pieces_are_done_in_order_and_one_is_pending_at_most():
    done: list[int] = []
    with one_behind() as do:
        for number in range(20):
            do(lambda number=number: done.append(number))
            assert len(done) >= number
    assert done == list(range(20))


def fail() -> None:
    raise OutputError("full")


def test_an_error_of_a_piece_is_raised_at_the_next_or_at_the_end():
    done: list[str] = []
    with one_behind() as do:
        do(fail)
        with pytest.raises(OutputError, match="full"):
            do(lambda: done.append("next"))
    assert not done
    with pytest.raises(OutputError, match="full"), one_behind() as do:
        do(fail)


def damaged(stop: Event) -> None:
    raise RunError("damaged")


def test_what_a_check_finds_comes_before_what_it_explains():
    with pytest.raises(RunError, match="damaged"), meanwhile(damaged):
        fail()
    with pytest.raises(RunError, match="damaged"), meanwhile(damaged):
        pass
    with pytest.raises(OutputError, match="full"), meanwhile(lambda stop: None):
        fail()


def keep_looking(look: Callable[[], None]) -> None:
    while True:
        look()


def test_a_check_that_has_failed_is_seen_while_the_work_goes_on():
    with pytest.raises(RunError, match="damaged"), meanwhile(damaged) as look:
        keep_looking(look)


def test_a_check_ends_early_where_the_work_is_interrupted():
    ended = Event()

    def long(stop: Event) -> None:
        stop.wait()
        ended.set()

    with pytest.raises(KeyboardInterrupt), meanwhile(long):
        raise KeyboardInterrupt
    assert ended.is_set()
