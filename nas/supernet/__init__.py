"""The weight-sharing supernet: elastic layers, activation and extraction, training strategies, recalibration."""

from nas.supernet.recalibrate import recalibrate
from nas.supernet.strategies import sandwich, single_path
from nas.supernet.supernet import Supernet
from nas.supernet.training import train_supernet

__all__ = ["Supernet", "recalibrate", "sandwich", "single_path", "train_supernet"]
