"""This tool as a step of other people's programs; what belongs to one of them is imported in its own module alone."""

from pathlib import Path

OLIVE_PACKAGE_CONFIG = Path(__file__).parent / "olive.json"
"""The package config of Olive that names the pass, and no other: `olive run --package-config` takes it."""

__all__ = ["OLIVE_PACKAGE_CONFIG"]
