"""A search over ranks, in real processes: its result is that of one process, and it stops and goes on as that does."""

from __future__ import annotations

import signal
import time

import pytest
import torch
from _launched import ended, launch, start
from safetensors.torch import load_file

from unipruning_core.cli.main import main
from unipruning_core.search.run_folder import Run

FILES = ("dual.safetensors", "run.json")
RUN = ("--samples", "6", "--seq-len", "16", "--backend", "cpu", "--dtype", "float32")
LONG = ("--samples", "40", "--seq-len", "8", "--save-every", "4samples")
FEEDBACK = ("--batch-size", "2", "--ramp-fraction", "1")


def words_of(home, out, *more):
    return ["search", home / "model", "--data", home / "text.txt", *RUN, "--out", out, *more]


def alone(home, out, *more):
    """The run folder of one process."""
    assert main([str(word) for word in words_of(home, out, *more)]) == 0
    return out


def over(ranks, home, out, *more):
    """The run folder of several."""
    found = launch(words_of(home, out, *more), ranks)
    assert [(rank.code, rank.errors) for rank in found] == [(0, [])] * ranks, found
    assert [bool(rank.out) for rank in found] == [True] + [False] * (ranks - 1)
    return out


def same(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def kept(folder):
    """The bits of the masks at 50 % over all matrices."""
    run = Run.open(folder)
    scores = torch.cat([run.score(target.name).flatten() for target in run.targets])
    return scores >= scores.median()


@pytest.mark.parametrize(
    ("ranks", "more", "layout"),
    [
        (2, ("--mode", "frozen"), ()),
        (3, ("--mode", "frozen", "--metric", "wanda"), ()),
        (4, (), ("--copies", "2")),
        (2, FEEDBACK, ()),
        (2, (), ("--offload", "disk")),
        (3, ("--dtype", "bfloat16"), ()),
        (4, ("--dtype", "bfloat16", "--batch-size", "2"), ()),
    ],
    ids=["frozen", "wanda", "copies", "batch", "offload", "one-sample-on-three", "two-samples-on-four"],
)
def test_the_result_is_that_of_one_process_to_the_last_bit(home, tmp_path, ranks, more, layout):
    """Two gradients have one sum in either order, however many ranks compute the same; bfloat16 shows any rounding."""
    assert same(alone(home, tmp_path / "one", *more), over(ranks, home, tmp_path / "several", *more, *layout))


@pytest.mark.parametrize(
    ("ranks", "more", "layout"),
    [
        (2, ("--mode", "drift", "--prox-strength", "0.1", "--quantile", "0.2"), ()),
        (4, ("--mode", "drift", "--metric", "wanda", "--max-grad-norm", "0"), ("--copies", "2")),
        (3, ("--mode", "coupled", "--metric", "ria"), ()),
    ],
    ids=["drift", "drift-copies", "coupled"],
)
def test_where_the_weights_move_their_sums_are_of_parts(home, tmp_path, ranks, more, layout):
    """The mean of S is the sum of sums over each rank's rows, which rounds otherwise."""
    one, several = alone(home, tmp_path / "one", *more), tmp_path / "several"
    over(ranks, home, several, *more, *layout)
    assert (kept(one) != kept(several)).float().mean() <= 0.002
    scores = [load_file(folder / FILES[0]) for folder in (one, several)]
    for name, dual in scores[0].items():
        torch.testing.assert_close(scores[1][name], dual, rtol=1e-3, atol=1e-6)


def test_sums_of_more_gradients_differ_in_their_last_bits(home, tmp_path):
    one, several = alone(home, tmp_path / "one", "--batch-size", "6"), tmp_path / "several"
    over(3, home, several, "--batch-size", "6")
    assert (kept(one) != kept(several)).float().mean() <= 0.002
    assert [load_file(folder / FILES[0]).keys() for folder in (one,)] == [load_file(several / FILES[0]).keys()]


def test_experts_see_tokens_on_some_ranks_only(mixture, tmp_path):
    one, several = alone(mixture, tmp_path / "one", *FEEDBACK), over(2, mixture, tmp_path / "two", *FEEDBACK)
    assert same(one, several)


def test_a_device_smaller_than_the_search_holds_a_block_at_a_time(home, tmp_path):
    one, offloaded = tmp_path / "one", tmp_path / "offloaded"
    assert same(alone(home, one), alone(home, offloaded, "--offload", "disk"))
    assert sorted(path.name for path in offloaded.iterdir()) == sorted(path.name for path in one.iterdir())


def test_a_signal_to_one_rank_stops_all_and_another_number_of_them_goes_on(home, tmp_path):
    more = (*FEEDBACK, *LONG)
    undisturbed, out = alone(home, tmp_path / "one", *more), tmp_path / "several"
    processes = start(words_of(home, out, *more), 2)
    while not list(out.glob("unfinished/resume-*/state.json")) and all(p.poll() is None for p in processes):
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    found = ended(processes)
    assert [rank.code for rank in found] == [143, 143], found
    assert "which is saved; the same command goes on from there" in found[0].err
    assert not found[1].err
    assert len(list(out.glob("unfinished/resume-*/state-00001-of-00002.safetensors"))) in (1, 2)
    assert same(undisturbed, alone(home, out, *more))


@pytest.mark.parametrize("last", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "stalls"])
def test_the_other_ranks_name_one_that_is_gone(home, tmp_path, last):
    out = tmp_path / "out"
    processes = start(words_of(home, out, *LONG), 3, timeout=8)
    while not list(out.glob("unfinished/resume-*/state.json")) and all(p.poll() is None for p in processes):
        time.sleep(0.01)
    processes[2].send_signal(last)
    began = time.monotonic()
    found = ended(processes[:2])
    assert time.monotonic() - began < 40
    processes[2].kill()
    ended(processes[2:])
    for rank, told in enumerate(found):
        assert told.code == 2
        (error,) = told.errors
        assert error.startswith(f"error: rank {rank} stops, since rank 2 died or does not answer; ")
    assert same(alone(home, tmp_path / "one", *LONG), over(2, home, out, *LONG))


def test_gradients_that_torch_can_only_average_are_refused_once(home, tmp_path):
    older = (
        "from torch.distributed.fsdp import FSDPModule; del FSDPModule.set_force_sum_reduction_for_comms; "
        "from unipruning_core.cli.main import main; raise SystemExit(main())"
    )
    found = launch(words_of(home, tmp_path / "out"), 2, program=("-c", older))
    assert [rank.code for rank in found] == [2, 2]
    (error,) = [error for rank in found for error in rank.errors]
    assert error.startswith("error: a search over ranks adds up their gradients, of which torch ")
    assert error.endswith(" can only take the mean; install torch 2.8 or later, or use --mode frozen")


@pytest.mark.parametrize(("flag", "value", "named"), [("--seed", "7", "data"), ("--learning-rate", "0.1", "settings")])
def test_a_rank_that_would_do_something_else_is_named_before_the_first_step(home, tmp_path, flag, value, named):
    words = words_of(home, tmp_path / "out")
    found = launch(words, 2, {1: [*words, flag, value]})
    assert [rank.code for rank in found] == [2, 2]
    assert f"rank 1 has another {named} than rank 0" in found[0].errors[0] or "settings" in found[0].errors[0]
    assert sum(len(rank.errors) for rank in found) == 1
    assert not list((tmp_path / "out").glob("run.json"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--skip-nonfinite",), "--skip-nonfinite runs in one process"),
        (("--compile",), "--compile runs in one process"),
        (("--dtype", "int3"), "--dtype must be"),
    ],
)
def test_what_ranks_cannot_do_is_said_once(home, tmp_path, more, said):
    found = launch(words_of(home, tmp_path / "out", *more), 2)
    assert [rank.code for rank in found] == [2, 2]
    (error,) = [error for rank in found for error in rank.errors]
    assert said in error
