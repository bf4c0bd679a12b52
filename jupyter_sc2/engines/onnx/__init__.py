"""The engine on ONNX Runtime, for the embedded model and those that jupyter sc2 train makes."""
