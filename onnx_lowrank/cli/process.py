"""What the command line does to its own process, and a library must not do to its user's.

No result depends on it: not one byte of a model, a plan or a report.
"""

from __future__ import annotations

import codecs
import ctypes
import io
import sys

from onnx_lowrank.plan.quiet_solver import hold_back
from onnx_lowrank.runtime.runner import log_nothing

PLAIN = "onnx-lowrank-plain"
ALIKE = dict(zip("×−–—·²", "x----2", strict=True)) | {"…": "...", "→": "->", "±": "+-", "≤": "<="}
"""What is printed in place of letters that are not in ASCII."""
MMAP_THRESHOLD, TOP_PAD, TRIM_THRESHOLD = -3, -2, -1
"""Parameters of mallopt, from glibc's malloc.h."""


def tune_process() -> None:
    """Keep freed memory, let onnxruntime log nothing, hold back what HiGHS writes to standard output; for good.

    And write in plain letters where the encoding of the output has no others.
    """
    plain_letters()
    keep_freed_memory()
    log_nothing()
    hold_back()


def plain_letters() -> None:
    """Write letters that an output's encoding (cp1252, ascii) has not as such that look alike, and raise no error."""
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors=PLAIN)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for letters that cannot be written, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(ALIKE.get(letter, "?") for letter in letters), error.end


def keep_freed_memory() -> None:
    """Let glibc's allocator keep 64 MB of freed memory, and ask for more in steps of 8 MB; blocks of 32 MB stay apart.

    Runs that take and free the same tensors again and again then spare half of the kernel's page faults (measured on
    EfficientNet: 5 % of all time, no higher peak). `linalg.trim` gives all of it back.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(MMAP_THRESHOLD, 2**25)
            library.mallopt(TRIM_THRESHOLD, 2**26)
            library.mallopt(TOP_PAD, 2**23)
