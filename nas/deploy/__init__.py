"""Networks leave the framework here, verified before they are announced: ``named("onnx-int8").export(...)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.discovery import Files

if TYPE_CHECKING:
    from nas.deploy.exporter import Exporter

_EXPORTERS = Files(package="nas.deploy.exporters", kind="export format")


def names() -> tuple[str, ...]:
    """Of all exporters, such as "onnx-int8"; imports none of them."""
    return _EXPORTERS.names()


def named(name: str) -> Exporter:
    """The exporter of that name. Raises BadInput, with all names, when there is none."""
    exporter: Exporter = _EXPORTERS.named(name).exporter
    return exporter
