"""The versions of ipykernel that tests with a kernel of their own run on."""

import pytest

from tests.support.kernels import IS_OLD, NEW, OLD, ipykernel_6


@pytest.fixture(scope="module", params=[NEW, OLD])
def version(request):
    if request.param == OLD:
        ipykernel_6()
    elif IS_OLD:
        pytest.skip("this environment has ipykernel 6")
    return request.param


@pytest.fixture
def comm(kernel):
    """A comm over which the module's `kernel` has answered once."""
    comm = kernel.open("control")
    comm.say({"type": "hello", "protocol": 1, "client": "tests"})
    comm.wait_for(type="hello")
    comm.answer()
    yield comm
    comm.leave()
