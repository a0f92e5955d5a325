"""Trackers that are told what happens in a run: TensorBoard, Weights & Biases, MLflow, trackio, JSON lines."""
