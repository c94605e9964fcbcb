"""The nouns of the package: frozen values that flow from step to step (docs/glossary.md)."""

from onnx_lowrank.types.arrays import Array, Feed, Outputs
from onnx_lowrank.types.chains import Chain, Layout, Ranks, Stage
from onnx_lowrank.types.forms import DENSE, OWN, SHARED, UNCHANGED, FactorKey, Form
from onnx_lowrank.types.number_formats import (
    ARITHMETIC,
    FORMATS,
    INT2,
    INT4,
    INT8,
    INT8_BLOCKS,
    INT12,
    Activations,
    NumberFormat,
    formats_in,
    stage_formats,
)
from onnx_lowrank.types.overrides import Override
from onnx_lowrank.types.plans import Choice, Cost, Curve, Option, Plan, Probe
from onnx_lowrank.types.provenance import Provenance
from onnx_lowrank.types.sites import Extent, Moments, Positions, SharedInput, SideName, Site, Skip, Why
from onnx_lowrank.types.verdicts import Bound, Certificate, Interval, OutputDifference, OutputVerdict, Verdict, Word

__all__ = [
    "ARITHMETIC",
    "DENSE",
    "FORMATS",
    "INT2",
    "INT4",
    "INT8",
    "INT8_BLOCKS",
    "INT12",
    "OWN",
    "SHARED",
    "UNCHANGED",
    "Activations",
    "Array",
    "Bound",
    "Certificate",
    "Chain",
    "Choice",
    "Cost",
    "Curve",
    "Extent",
    "FactorKey",
    "Feed",
    "Form",
    "Interval",
    "Layout",
    "Moments",
    "NumberFormat",
    "Option",
    "OutputDifference",
    "OutputVerdict",
    "Outputs",
    "Override",
    "Plan",
    "Positions",
    "Probe",
    "Provenance",
    "Ranks",
    "SharedInput",
    "SideName",
    "Site",
    "Skip",
    "Stage",
    "Verdict",
    "Why",
    "Word",
    "formats_in",
    "stage_formats",
]
