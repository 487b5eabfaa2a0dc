"""Images: in memory or on disk, divided honestly into training, validation and test."""

from nas.data.datasets import load_dataset
from nas.data.images import ImageData, load_digits, load_images
from nas.data.splits import Split

__all__ = ["ImageData", "Split", "load_dataset", "load_digits", "load_images"]
