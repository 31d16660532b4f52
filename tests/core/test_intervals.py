"""When a search saves its state: the interval as it is given, and at most 3 % of the time."""

import pytest

from unipruning_core.cli.main import main
from unipruning_core.errors import ConfigError
from unipruning_core.search.intervals import RATE, RATIO, SAVE_EVERY, Interval, Pace


@pytest.mark.parametrize(
    ("given", "interval"),
    [
        (300.0, Interval(seconds=300)),
        (90, Interval(seconds=90)),
        ("300", Interval(seconds=300)),
        ("2.5", Interval(seconds=2.5)),
        ("90s", Interval(seconds=90)),
        ("10min", Interval(seconds=600)),
        (" 1.5 h ", Interval(seconds=5400)),
        ("32samples", Interval(samples=32)),
        ("32 samples", Interval(samples=32)),
        ("1sample", Interval(samples=1)),
        (0, Interval(samples=1)),
        (0.0, Interval(samples=1)),
        ("0min", Interval(samples=1)),
        (SAVE_EVERY, Interval(seconds=300)),
    ],
    ids=repr,
)
def test_an_interval_is_a_time_or_a_number_of_samples(given, interval):
    assert Interval.of(given) == interval


NONE = [float("nan"), float("inf"), -1.0, -1e-300, "", "s", "x", "5 m", "5minutes", "-1min", "1e999h", "nans", "inf"]
NO_SAMPLES = ["0samples", "-2samples", "1.5samples", "samples", "1e3samples"]


@pytest.mark.parametrize("value", [*NONE, *NO_SAMPLES], ids=repr)
def test_an_interval_that_is_none_is_refused(value, search_words, tmp_path, capsys):
    wanted = "--save-every must be 0 or more seconds, or have a unit, such as 90s, 10min, 2h or 32samples, not "
    with pytest.raises(ConfigError) as caught:
        Interval.of(value)
    assert str(caught.value) == f"{wanted}{value!r}"
    for command in (["search"], ["prune", "--sparsity", "50%"]):
        assert main([*command, *search_words, f"--save-every={value}", "--out", str(tmp_path / "out")]) == 2
        assert f"{wanted}{str(value)!r}" in capsys.readouterr().err


class Clock:
    """Seconds that pass only where it is said."""

    def __init__(self):
        self.now = 1e6

    def __call__(self):
        return self.now


def simulated(interval, samples, sample_seconds, save_seconds, size=0):
    """Return what a search of such samples and saves spends on saving, and its whole time, after each save."""
    clock, spent, history = Clock(), 0.0, []
    pace = Pace(Interval.of(interval), size, clock)
    for sample in range(1, samples):
        clock.now += sample_seconds
        if pace.is_due(sample):
            took = save_seconds(len(history))
            with pace.saving():
                clock.now += took
            spent += took
            history.append((sample, spent, clock.now - 1e6))
    return history


def test_a_cheap_save_comes_after_each_interval():
    history = simulated("5min", 1000, 7.0, lambda _: 0.5)
    assert [sample for sample, *_ in history[:4]] == [43, 86, 129, 172]


@pytest.mark.parametrize(
    "save_seconds",
    [lambda _: 2.0, lambda _: 60.0, lambda n: 30.0 + n, lambda n: (5.0, 90.0)[n % 2], lambda n: 100.0 / (1 + n)],
    ids=["short", "long", "growing", "uneven", "shrinking"],
)
@pytest.mark.parametrize("sample_seconds", [0.3, 12.0])
def test_saving_takes_no_more_than_its_part_of_the_time(save_seconds, sample_seconds):
    # a minute a save is known from the size; then each save was expected to take what the one before took
    history = simulated(SAVE_EVERY, 40_000, sample_seconds, save_seconds, size=round(save_seconds(0) * RATE))
    assert len(history) > 2
    for number, (_, spent, elapsed) in enumerate(history):
        unexpected = max(0.0, save_seconds(number) - save_seconds(max(0, number - 1)))
        assert spent - unexpected <= RATIO * elapsed
    assert RATIO == 0.03


def test_a_disk_that_is_slower_than_expected_is_waited_for_before_the_next_save():
    first, second, *_ = simulated("1min", 4000, 1.0, lambda _: 30.0)
    assert first[0] == 60
    assert (second[1], second[1] / second[2]) == (60.0, pytest.approx(RATIO, rel=1e-3))


def test_a_number_of_samples_is_kept_to_whatever_it_takes():
    history = simulated("32samples", 100, 1.0, lambda _: 500.0)
    assert [sample for sample, *_ in history] == [32, 64, 96]
    assert [sample for sample, *_ in simulated(0, 4, 1.0, lambda _: 500.0)] == [1, 2, 3]
