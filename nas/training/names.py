"""What the files of a training are called in its folder."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingFiles:
    """``weights``: when it is finished; ``checkpoint``: only while it trains; ``rows``: of its epochs."""

    weights: str
    checkpoint: str
    rows: str


SUPERNET = "supernet.safetensors"
CHECKPOINT = "supernet.checkpoint.pt"
TRAINING = "training.csv"
OF_SUPERNET = TrainingFiles(weights=SUPERNET, checkpoint=CHECKPOINT, rows=TRAINING)
OF_NETWORK = TrainingFiles(
    weights="network.safetensors", checkpoint="network.checkpoint.pt", rows="network_training.csv"
)
