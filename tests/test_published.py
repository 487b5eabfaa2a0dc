"""Published spaces, tables, the tabular benchmark and the accuracy predictor: they say what their sources say."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED, lively
from fvcore.nn import FlopCountAnalysis, parameter_count
from torch import nn
from torch.nn import functional as F

import nas
from experiments.benchmarks.ofa_predictor import ofa_predictor
from nas.blocks import Conv, InvertedResidual, from_key
from nas.deploy.to_onnx import export_onnx
from nas.device import Device
from nas.errors import BadInput
from nas.modules import build, describe
from nas.objectives.tabular import NASBENCH201, TabularBenchmark
from nas.space import Choice, SearchSpace
from nas.supernet import Supernet
from nas.supernet.elastic import ElasticConv2d
from nas.tables.table import LatencyTable
from search_spaces import FBNet, MobileNetV3, NasBench201, OnceForAll
from search_spaces.ofa import published_config

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "latency_tables"
BLOCKWISE = {
    "note10_ofa_b1": OnceForAll.mobilenet_v3,
    "pixel1_proxyless_b1": OnceForAll.proxyless_nas,
    "raspi4_fbnet_b1": FBNet.cifar100,
    "eyeriss_fbnet_b1": FBNet.cifar100,
    "fpga_fbnet_b1": FBNet.cifar100,
    "i7-8700k_ofa_w10_b1": lambda: OnceForAll.mobilenet_v3(width=1.0, resolutions=tuple(range(96, 257, 4))),
    "i7-8700k_ofa_w12_b1": lambda: OnceForAll.mobilenet_v3(width=1.2, resolutions=tuple(range(96, 257, 4))),
}
WIDTHS = "xeon-gold-6130_tfnas_b1"  # blocks of many widths, but no stem and head: no space is covered
SMALL = {  # at sizes that a test can run
    "ofa.mobilenet_v3": lambda: OnceForAll.mobilenet_v3(resolutions=(48, 64)),
    "ofa.proxyless_nas": OnceForAll.proxyless_nas,
    "fbnet.cifar100": FBNet.cifar100,
}
shared = pytest.mark.skipif(not SHARED.exists(), reason=f"the sources' data is not at {SHARED}")


@pytest.fixture(scope="module", params=SMALL, ids=str)
def published(request):
    return SMALL[request.param]()


@pytest.fixture(scope="module")
def benchmark():
    return TabularBenchmark.load(NasBench201.cell(), NASBENCH201)


@pytest.fixture(scope="module")
def ofa():
    return OnceForAll.mobilenet_v3()


# ---- spaces --------------------------------------------------------------------------------------------------


def test_every_block_builds_and_reads_back(published):
    rng = np.random.default_rng(0)
    for i in rng.choice(len(published.blocks), min(50, len(published.blocks)), replace=False):
        block = published.blocks[i]
        assert from_key(block.key) == block
        module = build(block).eval()
        assert describe(module) == block
        assert module(torch.randn(1, *block.in_shape)).shape[1] == block.out_ch


def test_macs_and_parameters_equal_fvcores(published):
    supernet = Supernet(published)
    for arch in [*published.sample(1, np.random.default_rng(0)), supernet.largest]:
        network, blocks = supernet.extract(arch).eval(), published.networks(arch[None])[0]
        counted = FlopCountAnalysis(network, torch.randn(1, *network.input_shape))
        operators = counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
        assert sum(b.macs for b in blocks) == operators["conv"] + operators["linear"]
        assert sum(b.params for b in blocks) == parameter_count(network)[""]


def test_extracted_network_equals_active_subnet(published):
    supernet = Supernet(published, seed=1)
    for arch in published.sample(2, np.random.default_rng(1)):
        supernet.activate(arch)
        lively(supernet)
        network = supernet.extract(arch)
        assert network.describe() == published.networks(arch[None])[0]
        x = torch.randn(3, *network.input_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected, seen = supernet(x), network(x)
        assert expected.std(dim=0).max() > 0.03  # not equal because the input does not matter
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_genes_decide_the_network(published):
    archs = published.canonical(np.random.default_rng(0).integers(0, published.sizes, (500, published.genes)))
    archs = np.vstack([archs, published.mutate(archs, np.random.default_rng(1))])
    assert np.array_equal(published.encode(published.decode(archs)), archs)
    assert len(np.unique(published.block_ids(archs), axis=0)) == len(np.unique(archs, axis=0))


def test_fbnet_has_the_papers_positions():
    space = FBNet.cifar100()
    assert space.size == 9**22
    all_skipped, all_first = space.encode([dict.fromkeys(_genes(space), c) for c in ("skip", "k3_e1")])
    kept = space.networks(all_skipped[None])[0]
    assert [b.kind for b in kept] == ["stem"] * 7 + ["head"]  # 1x1 convolutions where the shape changes, else nothing
    assert sum(isinstance(b, InvertedResidual) for b in space.networks(all_first[None])[0]) == 22
    assert len({b.in_shape for b in kept}) == 8


def test_a_space_without_slots_is_scored_by_tables_only():
    space = NasBench201.cell()
    assert space.size == 5**6
    assert space.blocks == ()
    archs = space.sample(10, np.random.default_rng(0))
    assert space.block_ids(archs).shape == (10, 0)
    assert space.networks(archs) == [()] * 10
    for refused in (
        lambda: space.scorer([]),
        lambda: space.extremes([]),
        lambda: nas.macs(space),
        lambda: space.classes,
        lambda: space.in_channels,
    ):
        with pytest.raises(BadInput, match="has no blocks"):
            refused()


# ---- grouped convolutions ------------------------------------------------------------------------------------


def test_a_grouped_elastic_convolution_is_the_diagonal_blocks_of_the_dense_one():
    grouped, dense = Conv(in_ch=4, out_ch=6, groups=2, size=5), Conv(in_ch=8, out_ch=12, size=5)
    elastic = ElasticConv2d([grouped, dense])
    elastic.activate(grouped)
    x = torch.randn(2, 4, 5, 5)
    top, bottom = elastic.weight[:3, :2], elastic.weight[3:6, 2:4]
    expected = torch.cat([F.conv2d(x[:, :2], top), F.conv2d(x[:, 2:], bottom)], dim=1)
    torch.testing.assert_close(elastic(x), expected)
    plain = nn.Conv2d(4, 6, 1, groups=2, bias=False)
    plain.load_state_dict(elastic.sliced(grouped))
    torch.testing.assert_close(plain(x), expected)


def test_channels_are_shuffled_between_groups():
    block = InvertedResidual(in_ch=4, mid=8, out_ch=4, size=6, groups=2)
    module = build(block).eval()
    x = torch.randn(2, 4, 6, 6)
    wide = F.channel_shuffle(F.relu(module.expand_norm(module.expand(x))), 2)
    expected = module.project_norm(module.project(F.relu(module.depthwise_norm(module.depthwise(wide)))))
    torch.testing.assert_close(module(x), expected)
    assert block.params == parameter_count(module)[""]


def test_grouped_networks_export_to_onnx(tmp_path):
    space = FBNet.cifar100()
    arch = space.encode([dict.fromkeys(_genes(space), "k3_e1_g2")])[0]
    export_onnx(lively(Supernet(space)).extract(arch), tmp_path / "x.onnx")  # compares the outputs itself
    assert (tmp_path / "x.onnx").exists()


def test_a_layer_regrouped_by_hand_is_refused():
    module = build(InvertedResidual(in_ch=4, mid=8, out_ch=4, size=6))
    module.expand = nn.Conv2d(4, 8, 1, groups=2, bias=False)
    with pytest.raises(BadInput, match="no longer form"):
        describe(module)


def test_keys_of_older_tables_still_mean_the_same():
    key = "inverted_residual in_ch=8 out_ch=8 size=4 mid=16 kernel=3 stride=1 se=0 act=relu residual=1"
    block = InvertedResidual(in_ch=8, mid=16, out_ch=8, size=4, residual=True)
    assert block.key == key
    assert from_key(key) == block
    assert dataclasses.replace(block, groups=2).key == f"{key} groups=2"
    LatencyTable.load(TABLES / "amd-epyc_onnxruntime_fp32_mobilenet_v3_digits").check_space(MobileNetV3.digits())


# ---- tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKWISE)
def test_tables_cover_their_spaces_and_name_their_source(name):
    table, space = LatencyTable.load(TABLES / name), BLOCKWISE[name]()
    assert table.space == {"name": space.name, "fingerprint": space.fingerprint}
    table.check_space(space)
    assert table.kind == ("simulated" if name.startswith(("eyeriss", "fpga")) else "published")
    assert table.source
    assert table.licence == ("Apache-2.0" if name.startswith("i7") else "MIT")
    rows = table.rows
    assert (rows["p10_ms"] <= rows["latency_ms"]).all()
    assert (rows["latency_ms"] <= rows["p90_ms"]).all()
    extremes = nas.latency(space, table, unvalidated=True).extremes
    assert 0 <= extremes.minimum < extremes.maximum  # on the FPGA, what is skipped is free


def test_fbnet_tables_give_the_networks_that_the_source_printed():
    """Three networks of HW-NAS-Bench's example notebook: all k3_e1, the last position k3_e1_g2, the last two."""
    printed = {
        "raspi4": (17.6185791, 17.5052807, 17.4396926),
        "eyeriss": (3.940896, 3.900416, 3.86656),
        "fpga": (10.73952, 10.34784, 10.07136),
    }
    space = FBNet.cifar100()
    genes = _genes(space)
    configs = [dict.fromkeys(genes, "k3_e1") | dict.fromkeys(genes[22 - n :], "k3_e1_g2") for n in range(3)]
    for device, expected in printed.items():
        latency = nas.latency(space, LatencyTable.load(TABLES / f"{device}_fbnet_b1"), unvalidated=True)
        assert latency(space.encode(configs)) == pytest.approx(expected, rel=2e-6)


@shared
def test_fbnet_tables_give_all_sums_of_the_source():
    frame = pd.read_csv(SHARED / "fbnet" / "fbnet_latency.csv.gz")
    space = FBNet.cifar100()
    archs = frame[_genes(space)].to_numpy(np.uint8)
    for device in ("raspi4", "eyeriss", "fpga"):
        latency = nas.latency(space, LatencyTable.load(TABLES / f"{device}_fbnet_b1"), unvalidated=True)
        assert latency(archs) == pytest.approx(frame[f"lat_{device}"].to_numpy(), rel=1e-5)  # the source: six digits


@shared
def test_a_published_network_is_the_sum_of_the_note10s_operations(ofa):
    """Walked by hand from the network that once-for-all published with 30 ms."""
    timed = pd.read_csv(SHARED / "ofa" / "samsung_note10_latency.csv").groupby("op")["mean_ms"].mean()
    networks = pd.read_csv(SHARED / "ofa" / "specialized_networks.csv", index_col="name")
    row = networks.loc["note10_lat-30ms_top1-78.4_finetune-75"]
    kernels, expansions, depths = ([int(v) for v in row[c].split("-")] for c in ("kernels", "expands", "depths"))
    total = timed["Conv-input:224x224x3-output:112x112x24"] + sum(
        timed[f"{op}"]
        for op in (
            "expanded_conv-input:112x112x24-output:112x112x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0",
            "Conv_1-input:7x7x192-output:7x7x1152",
            "AvgPool2D-input:7x7x1152-output:1x1x1152",
            "Conv_2-input:1x1x1152-output:1x1x1536",
            "Logits-input:1x1x1536-output:1000",
        )
    )
    config = published_config(depths, kernels, expansions, resolution=224)
    before, size, position = 24, 112, 0
    for s, (channels, first, hswish, se) in enumerate(
        [(32, 2, 0, 0), (48, 2, 0, 1), (96, 2, 1, 0), (136, 1, 1, 1), (192, 2, 1, 1)], 1
    ):
        for b in range(1, depths[s - 1] + 1):
            stride = first if b == 1 else 1
            k, e, after = kernels[position], expansions[position], size // stride
            total += timed[
                f"expanded_conv-input:{size}x{size}x{before}-output:{after}x{after}x{channels}-expand:{e * before}-"
                f"kernel:{k}-stride:{stride}-idskip:{int(b > 1)}-se:{se}-hs:{hswish}"
            ]
            before, size, position = channels, after, position + 1
    latency = nas.latency(ofa, LatencyTable.load(TABLES / "note10_ofa_b1"), unvalidated=True)(ofa.encode([config]))[0]
    assert latency == pytest.approx(total, rel=1e-5)
    assert latency == pytest.approx(row["latency_ms"], rel=0.01)


@shared
def test_one_command_writes_the_shipped_files(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import published_tables as script

    monkeypatch.setattr(script, "TABLES", tmp_path)
    script.main()
    written = sorted(tmp_path.iterdir())
    assert {p.name.split(".")[0] for p in written} == {*BLOCKWISE, WIDTHS, "nasbench201"}
    for path in written:
        assert path.read_bytes() == (TABLES / path.name).read_bytes(), path.name
    assert len(capsys.readouterr().out.splitlines()) == 9


@shared
def test_i7_table_sums_to_the_sources_operations():
    """A network summed by hand from the source's columns, not from its keys."""
    source = pd.read_csv(SHARED / "nsganetv2_lut" / "i7_8700k_lut.csv.gz")
    space = BLOCKWISE["i7-8700k_ofa_w12_b1"]()
    table = LatencyTable.load(TABLES / "i7-8700k_ofa_w12_b1")
    for arch in space.sample(5, np.random.default_rng(0)):
        total = 0.0
        for block in space.networks(arch[None])[0]:
            at = source[(source["h_in"] == block.size) & (source["c_in"] == block.in_ch)]
            if block.kind == "stem":
                found = at[(at["op"] == "first_conv") & (at["c_out"] == block.out_ch)]
            elif block.kind == "head":
                found = pd.concat(
                    [
                        at[at["op"] == "final_expand_layer"],
                        source[(source["op"] == "feature_mix_layer") & (source["c_in"] == block.hidden)],
                        source[(source["op"] == "classifier") & (source["c_in"] == block.features)],
                    ]
                )
                assert len(found) == 3
            else:
                same = at[(at["op"] == "MBConv") & (at["c_out"] == block.out_ch) & (at["kernel"] == block.kernel)]
                ratio = getattr(block, "mid", block.in_ch) / block.in_ch
                found = same[(same["expand"] == ratio) & (same["stride"] == block.stride)]
            assert len(found) == (3 if block.kind == "head" else 1)
            total += found["latency_ms"].sum()
        assert nas.latency(space, table, unvalidated=True)(arch[None])[0] == pytest.approx(total, rel=1e-4)


@shared
def test_xeon_table_holds_the_knots_and_nothing_in_between():
    source = pd.read_csv(SHARED / "tfnas_lut" / "xeon_gold_6130_cpu_b1.csv.gz")
    rows = LatencyTable.load(TABLES / WIDTHS)
    kept = pd.DataFrame([{"mid": b.mid, "act": b.act, **_place(b)} for b in rows.blocks]).assign(
        ms=rows.rows["latency_ms"]
    )
    assert (kept["ms"] > 0).all()
    assert (kept["mid"] % 8 == 0).all()  # what the authors measured; the search for knots knows nothing of 8
    assert len(kept) < 0.12 * len(source)
    columns = ["size", "in_ch", "out_ch", "kernel", "se"]
    source = source.rename(columns={"h_in": "size", "c_in": "in_ch", "c_out": "out_ch", "se_channels": "se"})
    groups = {key: group.sort_values("mid") for key, group in kept.groupby(columns)}
    assert len(groups) == source.groupby(columns).ngroups
    for key, group in source.groupby(columns):
        mid, ms = groups[key][["mid", "ms"]].to_numpy(float).T
        inside = group[group["mid_channels"] >= mid.min()]
        assert mid.max() == group["mid_channels"].max()
        np.testing.assert_allclose(np.interp(inside["mid_channels"], mid, ms), inside["latency_ms"], rtol=1e-4)
        for i in range(1, len(mid) - 1):  # without any one of them, something else is no longer explained
            others = np.interp(mid[i], np.delete(mid, i), np.delete(ms, i))
            assert abs(others - ms[i]) > 1e-6 * ms[i]


def _place(block):
    return {"size": block.size, "in_ch": block.in_ch, "out_ch": block.out_ch, "kernel": block.kernel, "se": block.se}


def test_widths_between_the_measured_ones_are_estimated():
    table = LatencyTable.load(TABLES / WIDTHS)
    blocks = [b for b in table.blocks if b.size == 28 and b.se == 0 and b.stride == 1 and b.kernel == 3]
    between = [dataclasses.replace(b, mid=b.mid + 4) for b in blocks[:-1]]
    ms, _ = nas.estimate(table, between)
    neighbours = table.lookup(blocks)
    assert np.abs(ms / ((neighbours[:-1] + neighbours[1:]) / 2) - 1).mean() < 0.15


def test_a_block_without_time_is_refused_where_it_was_measured():
    row = {"block": FBNet.cifar100().blocks[0].key, "latency_ms": 0.0, "p10_ms": 0.0, "p90_ms": 0.0, "runs": 1}
    about = {
        "device": Device(name="x", chip="x", runtime="x", version="", precision="fp32"),
        "rows": pd.DataFrame([row]),
    }
    assert LatencyTable(kind="published", **about).effective_ms == [0.0]
    with pytest.raises(BadInput, match="positive"):
        LatencyTable(kind="measured", **about)


# ---- tabular benchmarks --------------------------------------------------------------------------------------


def test_nasbench201_says_what_its_file_says(benchmark):
    frame = pd.read_csv(NASBENCH201, keep_default_na=False)
    space = benchmark.space
    rows = frame.sample(200, random_state=0)
    archs = space.encode(rows[_genes(space)].to_dict("records"))
    assert np.array_equal(benchmark.accuracy()(archs), rows["accuracy"])
    assert np.array_equal(benchmark.latency("raspi4")(archs), rows["latency_ms.raspi4"])
    assert len(benchmark.devices) == 21
    assert benchmark.about["licence"].startswith("MIT")


def test_a_tables_objective_is_one_of_its_columns(benchmark):
    accuracy = benchmark.accuracy()
    assert accuracy.maximize
    assert not accuracy.cheap
    assert accuracy.extremes is None
    latency = benchmark.objective("latency_ms.eyeriss", name="ms", unit="ms", cheap=True)
    assert (latency.name, latency.unit, latency.maximize, latency.cheap) == ("ms", "ms", False, True)
    assert benchmark.fingerprint in accuracy.identity
    assert accuracy.identity != latency.identity
    with pytest.raises(BadInput, match="no 'top1'; it has accuracy, latency_ms"):
        benchmark.objective("top1")
    with pytest.raises(BadInput, match=r"no device 'fridge'; it has .*raspi4"):
        benchmark.latency("fridge")
    with pytest.raises(BadInput, match="have shape"):
        accuracy(np.zeros((2, 5), np.uint8))


@shared
def test_nasbench201_agrees_with_nats_bench(benchmark):
    """An independent tabulation: the same networks in the same order, the accuracies of another version."""
    frame = pd.read_csv(SHARED / "nasbench201_accuracy" / "nb201_accuracy.csv.gz")
    edges = frame["arch_str"].str.extractall(r"(\w+)~\d")[0].unstack()
    space = benchmark.space
    archs = space.encode(dict(zip(_genes(space), row, strict=True)) for row in edges.to_numpy())
    difference = np.abs(100 * benchmark.accuracy()(archs) - frame["cifar100_test_acc"])
    assert difference.mean() < 0.06
    assert (difference < 0.006).mean() > 0.8


TINY = SearchSpace("tiny_table", [Choice("a", (3, 5)), Choice("b", ("x", "y"))], ())
ROWS = [{"a": a, "b": b, "ms": ms} for ms, (a, b) in enumerate([(5, "y"), (3, "x"), (3, "y"), (5, "x")], 1)]


def _written(folder, rows, about="{}"):
    path = folder / "t.csv.gz"
    path.write_bytes(gzip.compress(pd.DataFrame(rows).to_csv(index=False).encode()))
    path.with_name("t.json").write_text(about)
    return path


def test_rows_may_come_in_any_order(tmp_path):
    table = TabularBenchmark.load(TINY, _written(tmp_path, ROWS))
    archs = TINY.encode({"a": row["a"], "b": row["b"]} for row in ROWS)
    assert table.objective("ms")(archs).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda d: _written(d, ROWS[:3]), r"3 rows, 3 of them different; tiny_table has 4"),
        (lambda d: _written(d, [*ROWS[:3], ROWS[0]]), r"4 rows, 3 of them different"),
        (lambda d: _written(d, [{"a": 3, "ms": 1.0}]), r"no column b; a table of tiny_table has a, b"),
        (lambda d: _written(d, [*ROWS[:3], {"a": 7, "b": "x", "ms": 1}]), r"a = 7 is not one of \[3, 5\]"),
        (lambda d: _written(d, ROWS, about="{"), r"t\.json is damaged"),
        (lambda d: _written(d, ROWS, about='{"licence": 5}'), r"t\.json is damaged: .*licence"),
        (lambda d: d / "no.csv.gz", "cannot read the table"),
        (lambda d: (_written(d, ROWS).write_bytes(b"x"), d / "t.csv.gz")[1], "cannot read|not a readable"),
        (lambda d: _written(d, [row | {"ms": "fast"} for row in ROWS]), "column ms is not all numbers"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, write, message):
    with pytest.raises(BadInput, match=message) as caught:
        TabularBenchmark.load(TINY, write(tmp_path))
    assert "\n" not in str(caught.value)


# ---- the accuracy predictor ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    """Random weights of once-for-all's network."""
    rng, sizes = np.random.default_rng(0), (128, 400, 400, 400, 1)
    arrays = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        arrays[f"{2 * i}_weight"] = rng.normal(size=(outputs, inputs)) * (2 / inputs) ** 0.5
        arrays[f"{2 * i}_bias"] = rng.normal(size=outputs)
    return arrays


def _one_by_one(space, archs, arrays):
    """The network in float64 on features that are laid out by hand."""
    out = []
    for config in space.decode(archs):
        x = np.zeros(128)
        for stage in range(5):
            for position in range(config[f"s{stage + 1}.depth"]):
                block, gene = 4 * stage + position, f"s{stage + 1}b{position + 1}"
                x[3 * block + (3, 5, 7).index(config[f"{gene}.kernel"])] = 1
                x[60 + 3 * block + (3, 4, 6).index(config[f"{gene}.expand"])] = 1
        x[120 + (config["resolution"] - 112) // 16] = 1
        for layer in (0, 2, 4):
            x = np.maximum(arrays[f"{layer}_weight"] @ x + arrays[f"{layer}_bias"], 0)
        out.append((arrays["6_weight"] @ x + arrays["6_bias"])[0])
    return np.array(out)


def test_predictor_equals_its_network_one_by_one(ofa, weights, tmp_path):
    np.savez(tmp_path / "p.npz", **weights)
    accuracy = ofa_predictor(ofa, tmp_path / "p.npz")
    assert accuracy.maximize
    assert accuracy.cheap
    archs = ofa.sample(2500, np.random.default_rng(0))  # more than one chunk
    some = np.r_[0:40, 2030:2060, 2490:2500]
    assert accuracy(archs)[some] == pytest.approx(_one_by_one(ofa, archs[some], weights), rel=1e-4, abs=1e-4)
    loose = np.random.default_rng(1).integers(0, ofa.sizes, (50, ofa.genes)).astype(np.uint8)
    assert np.array_equal(accuracy(loose), accuracy(ofa.canonical(loose)))  # inactive genes do not count
    np.savez(tmp_path / "q.npz", **weights | {"6_bias": weights["6_bias"] + 1})
    assert ofa_predictor(ofa, tmp_path / "q.npz").identity != accuracy.identity


@shared
def test_published_predictor_gives_the_published_networks_a_plausible_accuracy(ofa):
    path = SHARED / "ofa" / "imagenet_accuracy_predictor.npz"
    archs = ofa.sample(300, np.random.default_rng(0))
    predicted = ofa_predictor(ofa, path)(archs)
    with np.load(path) as arrays:
        assert predicted == pytest.approx(_one_by_one(ofa, archs, dict(arrays)), abs=1e-5)
    assert 0.75 < predicted.min() < predicted.max() < 0.87


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"2_weight": np.zeros((5, 5))}, r"weights \(5, 5\) on 400 inputs"),
        (lambda a: {k: v for k, v in a.items() if k != "4_bias"}, "not once-for-all's accuracy predictor"),
        (lambda a: b"", "not once-for-all's accuracy predictor"),
        (lambda a: b"PK\x03\x04 broken", "not once-for-all's accuracy predictor"),
        (lambda a: None, "cannot read the accuracy predictor"),
    ],
)
def test_other_files_are_no_predictor(ofa, weights, tmp_path, change, message):
    path, content = tmp_path / "p.npz", change(weights)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(BadInput, match=message) as caught:
        ofa_predictor(ofa, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (NasBench201.cell, "not the space of the predictor"),
        (OnceForAll.proxyless_nas, "unknown|not the space"),
        (lambda: OnceForAll.mobilenet_v3(width=1.0), "width 1.2"),
        (lambda: OnceForAll.mobilenet_v3(resolutions=(100,)), "resolution = 100"),
    ],
)
def test_other_spaces_have_no_predictor(weights, tmp_path, space, message):
    np.savez(tmp_path / "p.npz", **weights)
    with pytest.raises(BadInput, match=message):
        ofa_predictor(space(), tmp_path / "p.npz")


def _genes(space):
    return [c.name for c in space.choices]
