"""Layouts: how other projects name the tensors of mobile networks, and those tensors as networks of this one."""

from nas.layouts.once_for_all import load_ofa
from nas.layouts.pretrained import names, pretrained, with_classes

__all__ = ["load_ofa", "names", "pretrained", "with_classes"]
