import asyncio
import gc
import logging
import os
import shutil

import pytest
import uvloop

ONE_THREAD = pytest.StashKey[bool]()
"""whether it was the tests' own choice to compute with one thread"""
QUIET = (
    "tests/browser/test_page.py",
    "tests/e2e/",
    "tests/server/loadtest/test_loadtest.py",
    "tests/browser/",
    "tests/server/api/test_vitals.py",
)
"""tests in real time: they run last, those of one part one after the other on one worker, the longest part first"""


def pytest_configure(config):
    """Read when torch is imported: beside other work two threads wait for each other longer than one computes."""
    runs_tests = not config.getoption("numprocesses", None)
    config.stash[ONE_THREAD] = runs_tests and "OMP_NUM_THREADS" not in os.environ
    if config.stash[ONE_THREAD]:
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items):
    order = {part: place for place, part in enumerate(QUIET, 1)}
    items.sort(key=lambda item: order.get(quiet_part(item.nodeid), 0))


def quiet_part(nodeid):
    """The part of the tests in real time that a test belongs to; none for most."""
    return next((part for part in QUIET if nodeid.startswith(part)), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One file is one worker's, and so is each part of the tests in real time."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return quiet_part(nodeid) or super()._split_scope(nodeid)

        def remove_node(self, node):
            """A test that ends its worker, as one that runs into its limit does, has failed and is not run again."""
            for unit in self.assigned_work[node].values():
                for nodeid, is_done in unit.items():
                    if not is_done:
                        del unit[nodeid]
                        super().remove_node(node)
                        return nodeid
            return super().remove_node(node)

    return Scheduling(config, log)


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def imported_once(request):
    """What the imports left on the heap is not looked at again after every test.

    Processes that tests start choose their own number of threads.
    """
    if request.config.stash[ONE_THREAD]:
        del os.environ["OMP_NUM_THREADS"]
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def chromium_program():
    """The path of Chromium. Where it is missing the test fails: pip cannot bring it, but the Makefile does."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("Chromium is not installed: apt-get install chromium")
    return program


@pytest.fixture(autouse=True)
def no_lost_task(request, caplog):
    """A task that dies unseen is only a log line to asyncio; here it fails the test."""
    yield
    if not asyncio.iscoroutinefunction(getattr(request, "function", None)):
        return
    gc.collect()
    records = caplog.get_records("call") + caplog.get_records("teardown")
    lost = [r.getMessage() for r in records if r.name == "asyncio" and r.levelno >= logging.ERROR]
    assert not lost
