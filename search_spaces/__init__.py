"""Search spaces, one file per family. They import ``nas.space`` and ``nas.blocks`` only."""

from search_spaces.efficientnet import EfficientNet
from search_spaces.fbnet import FBNet
from search_spaces.mobilenet_v2 import MobileNetV2
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.nasbench201 import NasBench201
from search_spaces.ofa import OnceForAll

__all__ = ["EfficientNet", "FBNet", "MobileNetV2", "MobileNetV3", "NasBench201", "OnceForAll"]
