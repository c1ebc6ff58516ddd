"""Fitted generators leave the house: folded for inference, as ONNX models and TensorRT engines, proved equal."""
