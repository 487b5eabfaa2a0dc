"""Layouts: how other projects name the tensors of mobile networks, and those tensors as networks of this one."""

from nas.layouts.pretrained import names, pretrained

__all__ = ["names", "pretrained"]
