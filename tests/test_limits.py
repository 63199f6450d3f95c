"""The limits that conftest sets to every test are kept by running small tests that break them."""

TESTS = """
import time
import pytest

@pytest.mark.slow
def test_marked():
    time.sleep(1.0)

def test_that_waits():
    time.sleep(1.0)

def test_that_computes():
    until = time.process_time() + 0.4
    while time.process_time() < until:
        pass

@pytest.fixture
def preparation():
    time.sleep(1.0)

def test_with_a_long_setup(preparation):
    pass
"""


def test_an_unmarked_test_over_the_limit_fails(pytester, request):
    conftest = (request.config.rootpath / "tests" / "conftest.py").read_text()
    pytester.makeconftest(conftest.replace("LONGEST_SECONDS = 15", "LONGEST_SECONDS = 0.3"))
    pytester.makepyfile(TESTS)
    pytester.makeini(f"[pytest]\nmarkers = slow\npythonpath = {request.config.rootpath / 'tests'}")
    outcomes = pytester.runpytest_inprocess("-q").parseoutcomes()
    assert outcomes == {"passed": 1, "failed": 2, "errors": 1}, outcomes
