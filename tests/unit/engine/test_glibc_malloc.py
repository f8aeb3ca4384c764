import platform
import subprocess
import sys

import pytest

# 16 MiB, more than glibc's own threshold for mapping an allocation; in a process of its own, whose malloc it changes.
SCRIPT = """
import ctypes, resource
from pilotlight_engine.process import glibc_malloc
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
SIZE = 16 << 20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
glibc_malloc.keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator is not told anything")
def test_memory_that_was_freed_is_used_again_with_its_pages() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    # Not even the 8 of a kernel that gives huge pages to everybody.
    assert int(done.stdout) < 5
