"""Results that are kept from run to run, by the content of what they came from."""

from onnx_lowrank.store.entries import Entry, Store
from onnx_lowrank.store.remember import RECALLED, Parts, Place, key_of, recalled, remembered
from onnx_lowrank.store.spill import spilled

__all__ = ["RECALLED", "Entry", "Parts", "Place", "Store", "key_of", "recalled", "remembered", "spilled"]
