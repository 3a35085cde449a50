"""A process with the few open files of many systems gives itself more, as far as it may."""

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource")
SCRIPT = """
import resource, sys
from diffusers_helper.service.open_files import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
allow_open_files(1000)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("hard", "soft"), [(2000, 1000), (1000, 1000), (512, 512), (256, 256)])
def test_as_many_as_may_be(hard, soft):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(hard)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(soft), str(hard)]


def test_more_is_not_made_less():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    from diffusers_helper.service.open_files import allow_open_files

    allow_open_files(16)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
