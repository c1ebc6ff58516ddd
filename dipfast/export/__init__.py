"""Fitted generators as ONNX models and TensorRT engines, folded for inference and proved equal to the originals."""
