"""Networks leave the framework here: ONNX files and self-contained bundles, verified before they are announced."""
