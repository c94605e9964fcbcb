"""Where the order of a tensor's channels is seen, and which constants to rearrange so that another one is not."""

from onnx_lowrank.graph.orders.flow import OrderFlow
from onnx_lowrank.graph.orders.region import Change, Region, Seen
from onnx_lowrank.graph.orders.shapes import tensor_dims

__all__ = ["Change", "OrderFlow", "Region", "Seen", "tensor_dims"]
