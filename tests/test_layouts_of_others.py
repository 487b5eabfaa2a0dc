"""Weights files of timm, torchvision, efficientnet_pytorch and once-for-all, read as networks of ours.

The libraries cannot be installed here. What a file of theirs holds and computes is written down once more below, from
their papers' tables and the names that their state dicts have, in plain torch functions; weights are random.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from designed import B0, V2, V3_LARGE, V3_SMALL
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import nas
from nas import layouts
from nas.errors import BadInput
from nas.layouts.pretrained import layout_of
from nas.supernet import Supernet
from search_spaces.ofa import OnceForAll, published_config


class Reference:
    """A network as a sequence of calls that draw weights under their names the first time, and use them ever after."""

    def __init__(self, *, tf: bool, eps: float) -> None:
        self.state: dict[str, Tensor] = {}
        self.tf, self.eps = tf, eps
        self.calibrating = False
        self.rng = torch.Generator().manual_seed(0)

    def drawn(self, name: str, *shape: int, around: float = 0.0) -> Tensor:
        if name in self.state:
            return self.state[name]
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 25
        values = around + torch.randn(shape, generator=self.rng) / fan**0.5
        return values if name == "_" else self.state.setdefault(name, values)

    def conv(
        self, x: Tensor, name: str, norm: str, out: int, kernel: int = 1, stride: int = 1, dw: bool = False
    ) -> Tensor:
        weight = self.drawn(f"{name}.weight", out, 1 if dw else x.shape[1], kernel, kernel)
        if f"{norm}.weight" not in self.state:
            weight *= 0.1  # small variances, beside which epsilon counts
        if self.tf:
            total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
            x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(x, weight, None, stride, 0 if self.tf else kernel // 2, 1, out if dw else 1)
        return self.normed(x, norm)

    def normed(self, x: Tensor, norm: str) -> Tensor:
        channels = x.shape[1]
        if f"{norm}.weight" not in self.state:  # statistics of what is there, so that images matter to the end
            variance, mean = torch.var_mean(x, (0, 2, 3))
            self.state[f"{norm}.running_mean"] = mean + self.drawn("_", channels) * variance.sqrt()
            self.state[f"{norm}.running_var"] = variance.clamp_min(1e-4) * (1 + self.drawn("_", channels)).abs()
            self.state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
            self.drawn(f"{norm}.weight", channels, around=1.0)
            self.drawn(f"{norm}.bias", channels)
        if self.calibrating:
            self.state[f"{norm}.running_var"][:channels], self.state[f"{norm}.running_mean"][:channels] = (
                torch.var_mean(x, (0, 2, 3))
            )
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (self.state[f"{norm}.{key}"][:channels, None, None] for key in keys)
        return (x - mean) / (variance + self.eps).sqrt() * scale + shift

    def squeezed(self, x: Tensor, names: tuple[str, str], channels: int, act: Callable, gate: Callable) -> Tensor:
        pooled = x.mean((2, 3))
        down = self.drawn(f"{names[0]}.weight", channels, x.shape[1], 1, 1)[:, :, 0, 0]
        up = self.drawn(f"{names[1]}.weight", x.shape[1], channels, 1, 1)[:, :, 0, 0]
        pooled = act(pooled @ down.T + self.drawn(f"{names[0]}.bias", channels))
        return x * gate(pooled @ up.T + self.drawn(f"{names[1]}.bias", x.shape[1]))[:, :, None, None]

    def linear(self, x: Tensor, name: str, out: int, *, convolution: bool = False, bias: bool = True) -> Tensor:
        shape = (out, x.shape[1], 1, 1) if convolution else (out, x.shape[1])
        y = x @ self.drawn(f"{name}.weight", *shape).reshape(out, -1).T
        return y + self.drawn(f"{name}.bias", out) if bias else y


def flat(stages: list[tuple[int, int, int, int, int]], act: str, se: float) -> list[list[tuple]]:
    """The B0 or V2 kind of table as blocks (kernel, expanded, out, squeeze channels, activation, stride)."""
    found, before = [], 32
    for kernel, factor, out, stride, blocks in stages:
        found.append([])
        for i in range(blocks):
            found[-1].append((kernel, before * factor, out, int(before * se), act, stride if i == 0 else 1))
            before = out
    return found


def minimal(stages: list[list[tuple]]) -> list[list[tuple]]:
    return [[(3, mid, out, 0, "relu", stride) for _, mid, out, _, _, stride in stage] for stage in stages]


# how each library calls the parts of block ``n`` (number ``i`` of stage ``s``): expansion, depthwise, squeeze, projection
Naming = Callable[[int, int, int, bool, bool], dict[str, tuple[str, ...]]]


def lukemelas(n: int, s: int, i: int, expands: bool, se: bool) -> dict[str, tuple[str, ...]]:
    b = f"_blocks.{n}."
    return {
        "expand": (f"{b}_expand_conv", f"{b}_bn0"),
        "depthwise": (f"{b}_depthwise_conv", f"{b}_bn1"),
        "se": (f"{b}_se_reduce", f"{b}_se_expand"),
        "project": (f"{b}_project_conv", f"{b}_bn2"),
    }


def timm(n: int, s: int, i: int, expands: bool, se: bool) -> dict[str, tuple[str, ...]]:
    b = f"blocks.{s}.{i}."
    first = 2 if expands else 1
    return {
        "expand": (f"{b}conv_pw", f"{b}bn1"),
        "depthwise": (f"{b}conv_dw", f"{b}bn{first}"),
        "se": (f"{b}se.conv_reduce", f"{b}se.conv_expand"),
        "project": (f"{b}conv_pwl" if expands else f"{b}conv_pw", f"{b}bn{first + 1}"),
    }


def torchvision_v2(n: int, s: int, i: int, expands: bool, se: bool) -> dict[str, tuple[str, ...]]:
    b = f"features.{n + 1}.conv."
    j = int(expands)
    return {
        "expand": (f"{b}0.0", f"{b}0.1"),
        "depthwise": (f"{b}{j}.0", f"{b}{j}.1"),
        "project": (f"{b}{j + 1}", f"{b}{j + 2}"),
    }


def torchvision_v3(n: int, s: int, i: int, expands: bool, se: bool) -> dict[str, tuple[str, ...]]:
    names, j = {}, 0
    for part, there in (("expand", expands), ("depthwise", True), ("se", se), ("project", True)):
        b = f"features.{n + 1}.block.{j}."
        names[part] = (f"{b}fc1", f"{b}fc2") if part == "se" else (f"{b}0", f"{b}1")
        j += there
    return names


def once_for_all(n: int, s: int, i: int, expands: bool, se: bool) -> dict[str, tuple[str, ...]]:
    b = f"blocks.{n}.mobile_inverted_conv."
    c, bn = (".conv.conv", ".bn.bn") if expands else (".conv", ".bn")
    return {
        "expand": (f"{b}inverted_bottleneck{c}", f"{b}inverted_bottleneck{bn}"),
        "depthwise": (f"{b}depth_conv{c}", f"{b}depth_conv{bn}"),
        "se": (f"{b}depth_conv.se.fc.reduce", f"{b}depth_conv.se.fc.expand"),
        "project": (f"{b}point_linear{c}", f"{b}point_linear{bn}"),
    }


ACTS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hswish": F.hardswish}


def logits(
    r: Reference, x: Tensor, blocks: list[list[tuple]], names: Naming, stem: tuple[str, str, int, str], head: dict
) -> Tensor:
    x = ACTS[stem[3]](r.conv(x, stem[0], stem[1], stem[2], 3, 2))
    n = 0
    for s, stage in enumerate(blocks):
        for i, (kernel, mid, out, se, act, stride) in enumerate(stage):
            before, called = x, names(n, s, i, s > 0, se > 0)
            if s > 0:
                x = ACTS[act](r.conv(x, *called["expand"], mid))
            x = ACTS[act](r.conv(x, *called["depthwise"], mid, kernel, stride, dw=True))
            if se:
                gate = torch.sigmoid if act == "silu" else lambda v: F.relu6(v + 3) / 6
                x = r.squeezed(x, called["se"], se, F.silu if act == "silu" else F.relu, gate)
            x = r.conv(x, *called["project"], out)
            x = x + before if x.shape == before.shape else x
            n += 1
    x = ACTS[act](r.conv(x, *head["conv"], head["channels"])).mean((2, 3))
    if "features" in head:
        x = ACTS[act](r.linear(x, head["features"], head["wide"], convolution=head["convolution"]))
    return r.linear(x, head["classify"], 11)


_STEM = {"efficientnet_pytorch": ("_conv_stem", "_bn0"), "timm": ("conv_stem", "bn1")}
_STEM["torchvision"] = ("features.0.0", "features.0.1")
_HEAD = {
    "efficientnet_pytorch": {"conv": ("_conv_head", "_bn1"), "classify": "_fc"},
    "timm": {"conv": ("conv_head", "bn2"), "classify": "classifier"},
    "torchvision": {"conv": ("features.18.0", "features.18.1"), "classify": "classifier.1"},
}


def v3_head(library: str, large: bool) -> dict:
    wide = {"channels": 960 if large else 576, "wide": 1280 if large else 1024, "convolution": library == "timm"}
    if library == "timm":
        last, conv, features, classify = f"blocks.{6 if large else 5}.0.", ("conv", "bn1"), "conv_head", "classifier"
    else:
        last, conv = f"features.{16 if large else 12}.", ("0", "1")
        features, classify = "classifier.0", "classifier.3"
    return wide | {"conv": tuple(last + layer for layer in conv), "features": features, "classify": classify}


def case(library: str, table: str, *, tf: bool = False, eps: float = 1e-5):
    """The reference of a table of a paper under the names of a library, as a function of a ``Reference`` and images."""
    naming = {"efficientnet_pytorch": lukemelas, "timm": timm, "torchvision": torchvision_v2}[library]
    kind, _, simpler = table.partition(" ")
    if kind in ("large", "small"):
        naming = torchvision_v3 if library == "torchvision" else naming
        blocks, head = V3_LARGE if kind == "large" else V3_SMALL, v3_head(library, kind == "large")
        blocks = minimal(blocks) if simpler else blocks
        stem = (*_STEM[library], 16, "relu" if simpler else "hswish")
    else:
        act = "silu" if kind == "b0" else "relu6"
        blocks = flat(V2 if kind == "v2" else B0, act, 0.25 if kind == "b0" else 0.0)
        head, stem = _HEAD[library] | {"channels": 1280}, (*_STEM[library], 32, act)
    return Reference(tf=tf, eps=1e-3 if tf else eps), lambda r, x: logits(r, x, blocks, naming, stem, head)


CASES = {
    "efficientnet-b0-355c32eb.pth": case("efficientnet_pytorch", "b0", tf=True),
    "efficientnet-lite0-57934424.pth": case("efficientnet_pytorch", "lite", tf=True),
    "efficientnet_lite0_ra-37913777.pth": case("timm", "lite"),
    "tf_efficientnet_lite0.in1k/model.safetensors": case("timm", "lite", tf=True),
    "efficientnet_b0_ra-3dd342df.pth": case("timm", "b0"),
    "models--timm--tf_efficientnet_b0.ns_jft_in1k/snapshots/c0e6a31c/model.safetensors": case("timm", "b0", tf=True),
    "mobilenetv2_100_ra-b33bc2c4.pth": case("timm", "v2"),
    "mobilenetv3_large_100.ra_in1k.safetensors": case("timm", "large"),
    "mobilenetv3_small_100_lamb-266a294c.pth": case("timm", "small"),
    "tf_mobilenetv3_large_100-427764d5.pth": case("timm", "large", tf=True),
    "tf_mobilenetv3_small_minimal_100-922a7843.pth": case("timm", "small minimal", tf=True),
    "mobilenet_v2-b0353104.pth": case("torchvision", "v2"),
    "mobilenet_v3_large-8738ca79.pth": case("torchvision", "large", eps=1e-3),
    "mobilenet_v3_small-047dcff4.pth": case("torchvision", "small", eps=1e-3),
}


def written(path: Path, state: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_the_network_of_a_file_computes_what_its_library_does(name, tmp_path):
    reference, forward = CASES[name]
    x = torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(1))  # 72, 36, 18, 9, 5, 3: even and odd maps
    expected = forward(reference, x)
    network = nas.pretrained(written(tmp_path / name, reference.state), size=72)
    assert (expected[0] - expected[1]).std() > 0.1 * expected.std()  # images matter
    torch.testing.assert_close(network(x), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    for other in ({"padding": "symmetric" if reference.tf else "tf"}, {"eps": 1e-5 if reference.eps == 1e-3 else 1e-3}):
        changed = _with(network, **other)  # would have been seen
        assert (changed(x) - expected).abs().max() > 1e-2 * expected.abs().max()


def _with(network: nas.Network, **fields) -> nas.Network:
    changed = nas.Network(dataclasses.replace(block, **fields) for block in network.describe())
    changed.load_state_dict(network.state_dict())
    return changed.eval()


@pytest.mark.parametrize(
    ("file", "layout", "size", "mean"),
    [
        ("tf_efficientnet_b3_ap-aad25bdd", "timm/tf_efficientnet_b3_ap", 300, 0.5),
        ("tf_efficientnet_b3.ap_in1k", "timm/tf_efficientnet_b3_ap", 300, 0.5),
        ("tf_efficientnet_b3-e3bd6955", "timm/tf_efficientnet_b3", 300, 0.485),
        ("efficientnet_b1.ra4_e3600_r240_in1k", "timm/efficientnet_b1_ra4", 240, 0.5),
        ("efficientnet_b1.ft_in1k", "timm/efficientnet_b1", 256, 0.485),
        ("mobilenetv3_large_100.miil_in21k_ft_in1k", "timm/mobilenetv3_large_100_miil", 224, 0.0),
        ("mobilenetv2_140.ra_in1k", "timm/mobilenetv2", 224, 0.485),
    ],
)
def test_published_names_find_their_layout(file, layout, size, mean):
    found = layout_of(Path(f"/x/{file}.pth"), {"conv_stem.weight": torch.zeros(1)}, None)
    assert (found.full_name, found.size, found.normalise[0][0]) == (layout, size, mean)


BROKEN = {
    "mobilenet_v3_large-8738ca79.pth": ("features.4.block.2.fc1.weight", "features.14.block.1.1.running_mean"),
    "mobilenetv3_large_100.ra_in1k.safetensors": ("blocks.2.0.se.conv_reduce.bias", "conv_head.weight"),
    "mobilenet_v2-b0353104.pth": ("features.3.conv.3.bias", "features.18.0.weight"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_lacks_a_tensor_is_one_line_that_names_it(name, tmp_path):
    reference, forward = CASES[name]
    forward(reference, torch.zeros(1, 3, 32, 32))
    for missing in BROKEN[name]:
        path = written(tmp_path / name, {k: v for k, v in reference.state.items() if k != missing})
        with pytest.raises(BadInput, match=f"there is no {re.escape(missing)}") as refused:
            nas.pretrained(path)
        assert "\n" not in str(refused.value)
    wrong = reference.state | {BROKEN[name][1]: torch.zeros(3, 5)}
    with pytest.raises(BadInput, match=rf"{re.escape(BROKEN[name][1])} has shape \(3, 5\), and .* would fit"):
        nas.pretrained(written(tmp_path / name, wrong))


# ---- once-for-all ------------------------------------------------------------------------------------------------


class Elastic(Reference):
    """Once-for-all's dynamic layers, from the paper: first channels, the kernel's centre times a matrix per step down."""

    def weight_of(self, name: str, kernel: int) -> Tensor:
        weight = self.state[f"{name}.weight"]
        for source, target in ((7, 5), (5, 3)):
            if kernel < source:
                inner = weight[
                    :,
                    :,
                    (source - target) // 2 : (source + target) // 2,
                    (source - target) // 2 : (source + target) // 2,
                ]
                matrix = self.state[f"{name.removesuffix('.conv')}.{source}to{target}_matrix"]
                weight = torch.stack([(matrix @ w.reshape(-1)).reshape(1, target, target) for w in inner])
        return weight

    def subnet(self, x: Tensor, depths: list[int], kernels: list[int], expansions: list[int]) -> Tensor:
        norm = self.normed
        s = self.state
        x = F.hardswish(norm(F.conv2d(x, s["first_conv.conv.weight"], None, 2, 1), "first_conv.bn"))
        b = once_for_all(0, 0, 0, False, False)
        y = F.relu(norm(F.conv2d(x, s[f"{b['depthwise'][0]}.weight"], None, 1, 1, 1, 16), b["depthwise"][1]))
        x = x + norm(F.conv2d(y, s[f"{b['project'][0]}.weight"]), b["project"][1])
        for stage in range(5):
            act = F.relu if stage < 2 else F.hardswish
            for i in range(depths[stage]):
                at = 4 * stage + i
                names, kernel, before = once_for_all(at + 1, stage + 1, i, True, True), kernels[at], x
                stride = (2, 2, 2, 1, 2)[stage] if i == 0 else 1
                mid = x.shape[1] * expansions[at]
                x = act(norm(F.conv2d(x, s[f"{names['expand'][0]}.weight"][:mid]), names["expand"][1]))
                weight = self.weight_of(names["depthwise"][0], kernel)[:mid]
                x = act(norm(F.conv2d(x, weight, None, stride, kernel // 2, 1, mid), names["depthwise"][1]))
                if stage in (1, 3, 4):
                    reduce, expand = names["se"]
                    few = int(mid // 4 + 4) // 8 * 8
                    few += 8 if few < 0.9 * (mid // 4) else 0
                    pooled = F.relu(
                        F.conv2d(
                            x.mean((2, 3), keepdim=True), s[f"{reduce}.weight"][:few, :mid], s[f"{reduce}.bias"][:few]
                        )
                    )
                    x = x * F.hardsigmoid(
                        F.conv2d(pooled, s[f"{expand}.weight"][:mid, :few], s[f"{expand}.bias"][:mid])
                    )
                x = norm(F.conv2d(x, s[f"{names['project'][0]}.weight"][:, :mid]), names["project"][1])
                x = x + before if x.shape == before.shape else x
        x = F.hardswish(norm(F.conv2d(x, s["final_expand_layer.conv.weight"]), "final_expand_layer.bn")).mean(
            (2, 3), keepdim=True
        )
        x = F.hardswish(F.conv2d(x, s["feature_mix_layer.conv.weight"])).flatten(1)
        return x @ s["classifier.linear.weight"].T + s["classifier.linear.bias"]


def published() -> Elastic:
    """A file like ``ofa_mbv3_d234_e346_k357_w1.0``, with random weights."""
    r = Elastic(tf=False, eps=1e-5)

    def part(names: tuple[str, ...], out: int, into: int, kernel: int = 1) -> None:
        r.drawn(f"{names[0]}.weight", out, into, kernel, kernel)

    part(("first_conv.conv", "first_conv.bn"), 16, 3, 3)
    first = once_for_all(0, 0, 0, False, False)
    part(first["depthwise"], 16, 1, 3)
    part(first["project"], 16, 16)
    before = 16
    for stage, out in enumerate((24, 40, 80, 112, 160)):
        for i in range(4):
            names, mid = once_for_all(4 * stage + i + 1, stage + 1, i, True, True), before * 6
            part(names["expand"], mid, before)
            part(names["depthwise"], mid, 1, 7)
            for source, target in ((7, 5), (5, 3)):
                r.drawn(
                    f"{names['depthwise'][0].removesuffix('.conv')}.{source}to{target}_matrix", target**2, target**2
                )
            if stage in (1, 3, 4):
                few = int(mid // 4 + 4) // 8 * 8
                few += 8 if few < 0.9 * (mid // 4) else 0
                for name, shape in zip(names["se"], ((few, mid, 1, 1), (mid, few, 1, 1)), strict=True):
                    r.drawn(f"{name}.weight", *shape)
                    r.drawn(f"{name}.bias", shape[0])
            part(names["project"], out, mid)
            before = out
    part(("final_expand_layer.conv", "final_expand_layer.bn"), 960, 160)
    r.drawn("feature_mix_layer.conv.weight", 1280, 960, 1, 1)
    r.drawn("classifier.linear.weight", 1000, 1280)
    r.drawn("classifier.linear.bias", 1000)
    r.subnet(torch.randn(4, 3, 64, 64, generator=r.rng), [4] * 5, [7] * 20, [6] * 20)  # draws the norms
    return r


@pytest.fixture(scope="module")
def ofa(tmp_path_factory) -> tuple[Elastic, Supernet, Path]:
    reference = published()
    path = tmp_path_factory.mktemp("ofa") / "ofa_mbv3_d234_e346_k357_w1.0"
    torch.save({"state_dict": reference.state}, path)
    supernet = Supernet(OnceForAll.mobilenet_v3(width=1.0, resolutions=(64,)))
    layouts.load_ofa(supernet, path)
    return reference, supernet.eval(), path


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_subnets_of_a_published_supernet_are_once_for_alls(ofa, seed):
    reference, supernet, path = ofa
    rng = np.random.default_rng(seed)
    depths = [int(d) for d in rng.integers(2, 5, 5)]
    kernels, expansions = [int(k) for k in rng.choice([3, 5, 7], 20)], [int(e) for e in rng.choice([3, 4, 6], 20)]
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    reference.calibrating = True  # of this subnet: with another's statistics images hardly matter at the end
    reference.subnet(x, depths, kernels, expansions)
    reference.calibrating = False
    expected = reference.subnet(x, depths, kernels, expansions)
    layouts.load_ofa(supernet, written(path, reference.state))
    assert (expected[0] - expected[1]).std() > 0.1 * expected.std()
    config = published_config(depths, kernels, expansions, resolution=64, width=1.0)
    subnet = supernet.extract(supernet.space.encode([config])[0])
    torch.testing.assert_close(subnet(x), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "blocks.7.mobile_inverted_conv.depth_conv.conv.5to3_matrix",
            "there is no blocks.7.conv.depth_conv.conv.5to3_matrix",
        ),
        (
            "blocks.5.mobile_inverted_conv.depth_conv.se.fc.expand.bias",
            "there is no blocks.5.conv.depth_conv.se.fc.expand.bias",
        ),
        ("feature_mix_layer.conv.weight", "there is no feature_mix_layer.conv.weight"),
    ],
)
def test_a_supernet_file_that_lacks_a_tensor_is_one_line(ofa, tmp_path, change, said):
    reference, supernet, _ = ofa
    path = written(tmp_path / "ofa", {k: v for k, v in reference.state.items() if k != change})
    with pytest.raises(BadInput, match=re.escape(said)):
        layouts.load_ofa(Supernet(supernet.space), path)


def test_a_supernet_of_another_width_or_space_is_one_line(ofa):
    _, _, path = ofa
    with pytest.raises(
        BadInput, match=r"first_conv.conv.weight has shape \(16, 3, 3, 3\), and \(24, 3, 3, 3\) would fit"
    ):
        layouts.load_ofa(Supernet(OnceForAll.mobilenet_v3(width=1.2, resolutions=(64,))), path)
    with pytest.raises(BadInput, match="does not hold a network laid out as once-for-all's MobileNetV3 supernet"):
        layouts.load_ofa(Supernet(OnceForAll.proxyless_nas()), path)
