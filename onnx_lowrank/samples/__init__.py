"""The data intake: samples in any form a user has them, checked against the model and ready to run on it."""

from onnx_lowrank.samples.detect import Source, read
from onnx_lowrank.samples.iterables import DataReader
from onnx_lowrank.samples.random_data import RANDOM, RandomData, random_samples
from onnx_lowrank.samples.sets import Samples, Split
from onnx_lowrank.samples.splitting import make_split

__all__ = [
    "RANDOM",
    "DataReader",
    "RandomData",
    "Samples",
    "Source",
    "Split",
    "make_split",
    "random_samples",
    "read",
]
