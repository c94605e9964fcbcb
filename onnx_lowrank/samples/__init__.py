"""The data intake: samples in any form a user has them, checked against the model and ready to run on it."""

from onnx_lowrank.samples.detect import READERS, Source, path_forms, place_of, read
from onnx_lowrank.samples.iterables import DataReader
from onnx_lowrank.samples.named_labels import NamedLabels
from onnx_lowrank.samples.random_data import RANDOM, RandomData, random_samples
from onnx_lowrank.samples.reader import Reader
from onnx_lowrank.samples.sets import Samples, Split
from onnx_lowrank.samples.settle import settled
from onnx_lowrank.samples.splitting import halves, make_split
from onnx_lowrank.samples.stored import StoredData, stored_forms

__all__ = [
    "RANDOM",
    "READERS",
    "DataReader",
    "NamedLabels",
    "RandomData",
    "Reader",
    "Samples",
    "Source",
    "Split",
    "StoredData",
    "halves",
    "make_split",
    "path_forms",
    "place_of",
    "random_samples",
    "read",
    "settled",
    "stored_forms",
]
