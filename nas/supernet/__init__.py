"""The weight-sharing supernet: elastic layers, activation and extraction, training strategies, recalibration."""

from nas.supernet.recalibrate import recalibrate
from nas.supernet.strategies import Sandwich, SinglePath, Strategy
from nas.supernet.supernet import Supernet
from nas.supernet.training import train_supernet

__all__ = ["Sandwich", "SinglePath", "Strategy", "Supernet", "recalibrate", "train_supernet"]
