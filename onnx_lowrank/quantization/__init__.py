"""int8 of a whole model, by onnxruntime or of the weights alone."""
