import asyncio
import gc
import logging
import shutil

import pytest
import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def imported_once():
    """What the imports left on the heap is not looked at again after every test."""
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
