"""Which packages of onnxruntime are installed: two of them share one folder, and damage each other there."""

from __future__ import annotations

from importlib import metadata

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def packages() -> tuple[str, ...]:
    """Return those that are installed."""
    found = []
    for name in PACKAGES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def conflict(found: tuple[str, ...]) -> str:
    """Return what is wrong with more than one of them, and the mend; "" where there is one."""
    if len(found) < 2:
        return ""
    keep = found[-1]
    return (
        f"{' and '.join(found)} are both installed, in one folder: whichever came last is used, and removing one breaks"
        f" the other. To mend it: pip uninstall -y {' '.join(found)} && pip install {keep}"
    )
