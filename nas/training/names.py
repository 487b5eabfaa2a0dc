"""What the files of a supernet's training are called in a run folder."""

SUPERNET = "supernet.safetensors"
CHECKPOINT = "supernet.checkpoint.pt"
"""Only while it trains."""
TRAINING = "training.csv"
