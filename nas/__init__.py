"""Hardware-aware neural architecture search: from your images and your device to deployable networks.

The public names are in ``__init__.pyi``. They load on first use: ``import nas`` imports neither torch nor ONNX Runtime.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
