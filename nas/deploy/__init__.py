"""Networks leave the framework here, verified before they are announced: ``named("onnx-int8").export(...)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import discovery

if TYPE_CHECKING:
    from nas.deploy.exporter import Exporter

_PACKAGE = "nas.deploy.exporters"


def names() -> tuple[str, ...]:
    """Of all exporters, such as "onnx-int8"; imports none of them."""
    return discovery.names(_PACKAGE)


def named(name: str) -> Exporter:
    """The exporter of that name. Raises BadInput, with all names, when there is none."""
    exporter: Exporter = discovery.named(_PACKAGE, name, "export format").exporter
    return exporter
