"""Step ``onnx``: exports a checkpoint to one ONNX graph with a KV cache, in 32, 16, 8 or 4 bits."""
