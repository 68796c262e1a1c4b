"""The page begins with the largest size that the machine holds at full quality."""

import pytest

from server.scheduling.admission import Admission
from server.scheduling.costs import Workload
from server.scheduling.start_size import SIZES, start_size

ANY = Workload(model="tiny", width=416, height=240, num_steps=1, reinject_every=0)


def device(seconds):
    """A device on which a chunk of 416x240 takes so many seconds, of the 0.75 s in which one fills."""
    found = Admission()
    found.costs.calibrate(ANY, seconds)
    return found


@pytest.mark.parametrize(
    "seconds, size",
    [(0.01, (832, 480)), (0.26, (416, 240)), (0.5, (320, 192)), (0.9, (256, 144)), (9.0, (256, 144))],
)
def test_a_faster_machine_begins_with_a_larger_picture(seconds, size):
    assert start_size([device(seconds)], ANY, 0.0) == size


def test_nothing_is_promised_before_warm_up():
    assert start_size([Admission()], ANY, 0.0) is None


def test_what_others_take_is_not_given_twice():
    busy = device(0.3)
    for name in "ab":
        busy.open(name, ANY, 0.0)
    assert start_size([busy], ANY, 0.0) == SIZES[-1]
    assert start_size([busy, device(0.3)], ANY, 0.0) == (416, 240)


def test_a_device_that_has_become_slow_is_judged_anew():
    slowed = device(0.26)
    for second in range(20):
        slowed.costs.measure(float(second), ANY, 0.7)
    assert start_size([slowed], ANY, 20.0) == (256, 144)


def test_a_device_that_gets_one_hopeful_trial_is_not_taken_for_a_fast_one():
    """A trial chunk is said to fit half a period, whatever its size: the page began at 832x480 on a loaded machine."""
    hopeful = device(0.4)
    hopeful.costs.busy(0.0)
    hopeful.costs.measure(0.1, ANY, 3.0)
    for second in range(1, 9):
        hopeful.costs.measure(float(second), ANY, 0.08, "x_init")
    large = ANY.model_copy(update={"width": 832, "height": 480})
    assert hopeful.costs.mean_cost(9.0, large) <= large.period / 2, "the trial"
    assert start_size([hopeful], ANY, 9.0) == (320, 192)
