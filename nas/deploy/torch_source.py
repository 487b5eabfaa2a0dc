"""A network as plain PyTorch source: explicit layers and a linear forward, from a torch.fx trace.

Batch norm is folded. It works for networks made of convolutions, linear layers, pools and activations (as functions or
modules), sums and products, whatever their channel counts.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.blocks import ACTIVATIONS
from nas.errors import BadInput
from nas.modules import ACTIVATION_FUNCTIONS

# functions and operators by how their source reads; {0}, {1}: the arguments
_OPERATORS: dict[Any, str] = {
    operator.add: "{0} + {1}",
    operator.iadd: "{0} + {1}",
    torch.add: "{0} + {1}",
    operator.sub: "{0} - {1}",
    operator.mul: "{0} * {1}",
    operator.imul: "{0} * {1}",
    torch.mul: "{0} * {1}",
}


def _below_torch(name: str) -> str:
    """The source of a function that is called ``name`` below ``torch``."""
    return name.replace("nn.functional", "F") if name.startswith("nn.functional.") else f"torch.{name}"


_FUNCTIONS: dict[Any, str] = {
    **{getattr(F, name): f"F.{name}" for name in ("gelu", "adaptive_avg_pool2d", "avg_pool2d", "pad")},
    **{ACTIVATION_FUNCTIONS[name]: _below_torch(a.torch) for name, a in ACTIVATIONS.items()},
    torch.relu: "torch.relu",
    torch.tanh: "torch.tanh",
    torch.flatten: "torch.flatten",
    torch.mean: "torch.mean",
    torch.cat: "torch.cat",
}
_DEFAULTS = [("inplace", False), ("mode", "constant"), ("value", None)]  # functions of torch say them: only noise
_METHODS = {"flatten", "unflatten", "transpose", "mean", "view", "reshape", "sigmoid", "relu", "add", "mul"}
_LAYERS = (  # layers without weights: their extra_repr is the text of their arguments
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
)


def generate(network: nn.Module) -> tuple[str, dict[str, torch.Tensor]]:
    """The source of model.py and the state dict of its ``Model``, for ``network`` in eval mode; batch norm is folded.

    ``Model`` takes an image ``(n, c, h, w)`` and names its layers and their weights as ``network`` does, dots replaced.

    Raises BadInput for an operation or layer that it does not know, and for a network that torch.fx cannot trace.
    """
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:  # the network's own code runs on symbols here, and can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{type(network).__name__} cannot be written as source: {reason}") from None
    modules = dict(traced.named_modules(remove_duplicate=False))
    folded = _fold_batch_norm(traced, modules)
    order = [node for node in traced.graph.nodes if node not in folded]
    if [node.op for node in order].count("placeholder") != 1:
        raise BadInput(f"{type(network).__name__} cannot be written as source: it takes more than one input")
    values: dict[fx.Node, str] = {}
    layers: dict[str, str] = {}
    lines: list[str] = []
    weights: dict[str, torch.Tensor] = {}
    for node, follower in zip(order, [*order[1:], None], strict=True):
        text = None
        match node.op:
            case "placeholder":
                values[node] = "image"
            case "output":
                lines.append(f"return {_text(node.args[0], values)}")
            case "call_module":
                name, layer = _readable(str(node.target)), modules[str(node.target)]
                layers[name] = f"self.{name} = {_constructor(layer)}"
                weights |= {f"{name}.{k}": v.clone() for k, v in layer.state_dict().items()}
                text = f"self.{name}({', '.join(_text(a, values) for a in node.args)})"
            case _:
                text = _expression(node, values)
        if text is not None:
            # one running variable; a value that anything but the next line reads gets a name of its own
            values[node] = "x" if _readers(node, folded) == [follower] else f"kept_{len(lines)}"
            lines.append(f"{values[node]} = {text}")
        for norm in node.users:
            if norm in folded:
                values[norm] = values[node]
    source = _TEMPLATE.format(
        functional="from torch.nn import functional as F\n" if any("F." in line for line in lines) else "",
        layers="\n        ".join(layers.values()),
        lines="\n        ".join(lines),
    )
    return source, weights


def _fold_batch_norm(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """Fold every batch norm into the convolution before it, in ``modules``; returns the norms' nodes."""
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    folded = set()
    for node in traced.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.BatchNorm2d):
            continue
        before, norm = node.args[0], modules[str(node.target)]
        convolution = modules.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(convolution, nn.Conv2d) or len(before.users) > 1 or calls.count(str(before.target)) > 1:
            raise BadInput(
                f"{node.target}: a batch norm that does not follow a convolution of its own cannot be folded"
            )
        assert isinstance(norm, nn.BatchNorm2d)
        modules[str(before.target)] = fuse_conv_bn_eval(convolution, norm)
        folded.add(node)
    return folded


def _expression(node: fx.Node, values: Mapping[fx.Node, str]) -> str:
    target: Any = node.target
    arguments = [_text(a, values) for a in node.args]
    named = {k: _text(v, values) for k, v in node.kwargs.items() if (k, v) not in _DEFAULTS}
    if node.op == "call_function" and target in _OPERATORS and len(arguments) == 2 and not named:
        return _OPERATORS[target].format(*arguments)
    rest = [f"{k}={v}" for k, v in named.items()]
    if node.op == "call_function" and target in _FUNCTIONS:
        return f"{_FUNCTIONS[target]}({', '.join(arguments + rest)})"
    if node.op == "call_method" and target in _METHODS:
        return f"{arguments[0]}.{target}({', '.join(arguments[1:] + rest)})"
    name = target if isinstance(target, str) else getattr(target, "__name__", target)
    raise BadInput(f"the bundle generator does not know the operation {name}")


def _text(argument: Any, values: Mapping[fx.Node, str]) -> str:
    """An argument as source: a value's name, a number, or a list of such."""
    match argument:
        case fx.Node():
            return values[argument]
        case list():
            return f"[{', '.join(_text(a, values) for a in argument)}]"
        case tuple():
            return f"({', '.join(_text(a, values) for a in argument)}{',' * (len(argument) == 1)})"
        case bool() | int() | float() | str() | None:
            return repr(argument)
    raise BadInput(f"the bundle generator does not know the argument {argument!r}")


def _readers(node: fx.Node, folded: set[fx.Node]) -> list[fx.Node]:
    """The nodes that read a value, looking through folded ones."""
    return [reader for user in node.users for reader in (_readers(user, folded) if user in folded else [user])]


def _constructor(layer: nn.Module) -> str:
    match layer:
        case nn.Conv2d():
            settings = {
                "stride": (_single(layer.stride), 1),
                "padding": (_single(layer.padding), 0),
                "dilation": (_single(layer.dilation), 1),
                "groups": (layer.groups, 1),
                "bias": (layer.bias is not None, True),
                "padding_mode": (layer.padding_mode, "zeros"),
            }
            extra = "".join(f", {name}={value!r}" for name, (value, default) in settings.items() if value != default)
            return f"nn.Conv2d({layer.in_channels}, {layer.out_channels}, {_single(layer.kernel_size)}{extra})"
        case nn.Linear():
            return f"nn.Linear({layer.in_features}, {layer.out_features}{'' if layer.bias is not None else ', bias=False'})"
    if type(layer) in _LAYERS:
        return f"nn.{type(layer).__name__}({layer.extra_repr()})"
    raise BadInput(f"the bundle generator does not know the layer {type(layer).__name__}")


def _single(pair: Any) -> Any:
    """(3, 3) as 3, other values as they are."""
    return pair[0] if isinstance(pair, tuple) and len(set(pair)) == 1 else pair


def _readable(target: str) -> str:
    first, _, rest = target.partition(".")
    if first.isdigit():
        return f"block{first}_{rest.replace('.', '_')}" if rest else f"layer{first}"
    return target.replace(".", "_")


_TEMPLATE = '''"""An image classifier in plain PyTorch. Batch norm is folded into the convolutions."""

from pathlib import Path

import torch
from torch import nn
{functional}

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        {layers}

    def forward(self, image):
        {lines}


def load(weights=Path(__file__).with_name("weights.pt")):
    """The model with its weights, on the CPU, ready to predict."""
    model = Model()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()
'''
