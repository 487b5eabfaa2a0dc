"""How campaigns take times, by clocks and devices that are made up: nothing here depends on this machine's speed."""

from __future__ import annotations

import copy
import json
import math
import os
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from nas.on_device import clock, power, results, runner
from nas.on_device.campaign import Campaign, Driver, span
from nas.on_device.outputs import Problem

# ---- samples


class Ticks:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch):
        self.ns = 0
        monkeypatch.setattr(clock.time, "perf_counter_ns", lambda: self.ns)

    def call(self, us):
        def run():
            self.ns += int(1000 * us)

        return run


def test_a_sample_is_the_mean_of_its_runs_and_fills_the_clock(monkeypatch):
    ticks = Ticks(monkeypatch)
    assert clock.timed(clock.Loaded(ticks.call(50), runs=4), 3) == pytest.approx([0.05] * 3)
    assert ticks.ns == 3 * 4 * 50_000
    assert clock.warmed_up(ticks.call(10)).runs == 10  # 0.1 ms
    assert clock.warmed_up(ticks.call(5000)).runs == 1
    before = ticks.ns
    clock.warmed_up(ticks.call(5000))
    assert ticks.ns - before == 8 * 5_000_000  # three to warm up, five to know how long it takes


def cold_first(ms):
    return lambda n: [10 * ms] + [ms] * (n - 1)


def test_the_first_sample_of_a_visit_finds_cold_caches_and_is_dropped():
    found = clock.in_turns([cold_first(1.0), cold_first(2.0)])
    assert [set(samples) for samples in found] == [{1.0}, {2.0}]


def visits(log, name, spread):
    """0.9 to 1.1 times 1 ms when ``spread`` is 0.1; notes when it was asked."""
    numbers = np.random.default_rng(0)

    def take(n):
        log.append(name)
        return list(1 + spread * numbers.uniform(-1, 1, n))

    return take


def test_networks_take_turns_until_each_median_is_tight():
    log = []
    steady, noisy = clock.in_turns([visits(log, "steady", 0.001), visits(log, "noisy", 0.9)])
    assert log[: 2 * clock.MIN_ROUNDS] == ["steady", "noisy"] * clock.MIN_ROUNDS
    assert log[2 * clock.MIN_ROUNDS :] == ["noisy"] * (clock.MAX_ROUNDS - clock.MIN_ROUNDS)
    assert (len(steady), len(noisy)) == (3 * clock.MIN_ROUNDS, 3 * clock.MAX_ROUNDS)
    log.clear()
    (between,) = clock.in_turns([visits(log, "between", 0.06)])
    assert clock.MIN_ROUNDS < len(log) < clock.MAX_ROUNDS  # as soon as it is tight, and not before
    assert clock.median_interval(between) <= clock.TIGHT < clock.median_interval(between[:-3])
    log.clear()
    clock.in_turns([visits(log, "late", 0.9)], long_s=0)
    assert len(log) == clock.MIN_ROUNDS
    log.clear()
    clock.in_turns([visits(log, "more", 0.9)], rounds=(20, 60))
    assert len(log) == 60


def test_one_that_fails_while_it_runs_leaves_the_others_alone():
    def breaks(n, asked=iter(range(3))):  # noqa: B008 - one count for this test
        next(asked)
        return [1.0] * n

    good, bad = clock.in_turns([cold_first(1.0), breaks])
    assert len(good) == 3 * clock.MIN_ROUNDS
    assert isinstance(bad, StopIteration)


def test_the_interval_of_the_median_is_that_of_theory():
    """For normal samples the median's standard error is 1.2533 sd / sqrt(n)."""
    rng = np.random.default_rng(0)
    widths = [clock.median_interval(list(rng.normal(10, 1, 400))) for _ in range(60)]
    assert np.mean(widths) == pytest.approx(1.96 * 1.2533 / math.sqrt(400) / 10, rel=0.08)


def test_the_interval_of_few_samples_is_between_order_statistics():
    ordered = np.arange(1000.0, 1100.0)
    # of 100 samples 40 to 60 lie below the median in 95 of 100 cases, by the binomial distribution
    expected = (ordered[60] - ordered[40]) / (2 * np.median(ordered))
    assert clock.median_interval(np.random.default_rng(0).permutation(ordered)) == pytest.approx(expected)
    assert clock.median_interval([1.0, 3.0]) == pytest.approx(2 / 4)  # of two all that is known is both


def test_long_is_counted_from_the_beginning(monkeypatch):
    log = []
    monkeypatch.setattr(clock.time, "monotonic", lambda: 1e6 + len(log))
    clock.in_turns([visits(log, "noisy", 0.9)], long_s=1000)
    assert len(log) == clock.MAX_ROUNDS
    log.clear()
    clock.in_turns([visits(log, "noisy", 0.9)], long_s=clock.MIN_ROUNDS + 3.5)
    assert len(log) == clock.MIN_ROUNDS + 4


def test_a_summary_is_numpys():
    samples = np.random.default_rng(1).lognormal(size=37)
    got = clock.summary(samples)
    assert [got[k] for k in ("p10_ms", "ms", "p90_ms")] == pytest.approx(list(np.quantile(samples, [0.1, 0.5, 0.9])))
    assert got["runs"] == 37
    for bad in ([], [0.0], [-1.0, 1.0], [1.0, math.inf], [math.nan]):
        with pytest.raises(ValueError, match="no latencies"):
            clock.summary(bad)


def test_power_is_what_a_meter_counts_by_the_time_it_ran(monkeypatch):
    at = count()
    monkeypatch.setattr("nas.on_device.power.time.time", lambda: float(next(at)))  # a second passes from look to look
    runs, joules = [], iter([100.0, 107.0])
    window = power.sustained(lambda: runs.append(1), lambda: next(joules), seconds=0.01)
    assert window == {"begin": 0.0, "end": 1.0, "watts": 7.0}
    assert runs
    assert "watts" not in power.sustained(lambda: None, lambda: math.nan, seconds=0)


def test_power_is_summed_over_the_time_between_its_samples(tmp_path, monkeypatch):
    (tmp_path / "volts").write_text("5000")
    (tmp_path / "amperes").write_text("400")
    at = iter([0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr(power, "time", SimpleNamespace(monotonic=lambda: next(at), time=lambda: 0.0))
    meter = power.Power([["", tmp_path / "volts", tmp_path / "amperes", 1e-6]])
    ends = iter([False, False, False, True])
    meter.stop = SimpleNamespace(wait=lambda seconds: next(ends))
    meter._sample()
    assert meter.joules() == pytest.approx(2 * 6)
    assert [watts for _, watts in meter.samples] == pytest.approx([2.0] * 3)
    assert math.isnan(power.Power([]).joules())


# ---- campaigns


class Device(Driver):
    """A block takes 1 ms and more by its number, a network 10; ``slow``: how much slower than usual each call is."""

    name, probe, again, attempts = "made up", 2, 4, 3

    def __init__(self, slow=(), fails=(), sizes=None):
        self.slow, self.fails, self.sizes = list(slow), set(fails), sizes or {"block": 5, "calibrate": 2}
        self.groups, self.energy = [], []

    def time(self, models, energy):
        self.groups.append([m["file"] for m in models])
        self.energy.append(energy)
        slower = self.slow.pop(0) if self.slow else 1.0
        return [self.one(m["file"], slower) for m in models]

    def one(self, file, slower):
        if file in self.fails:
            return {"failed": "no kernel"}
        ms = slower * ((1 + int(file[-1])) if file.startswith("blocks") else 10)
        return {"ms": ms, "p10_ms": ms, "p90_ms": ms, "runs": 3}

    def conditions(self):
        return {"load": 0.5}


BLOCKS = [{"file": f"blocks/0000{i}", "role": "block", "key": f"b{i}", "sha256": str(i)} for i in range(10)]
NETWORKS = [
    {"file": f"networks/0000{i}", "role": "calibrate" if i < 3 else "validate", "key": f"n{i}", "blocks": [i, 9]}
    for i in range(5)
]
MODELS = BLOCKS + NETWORKS
REFERENCE = BLOCKS[7]


def campaign(tmp_path, device, said=None, **header):
    log = results.Log(str(tmp_path / "results.jsonl"), MODELS, {"kit": "1", **header})
    lines = [] if said is None else said
    Campaign(MODELS, REFERENCE, device, log, lines.append, lambda *done: lines.append(done)).run()
    return log


def written(tmp_path):
    return [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]


def test_a_campaign_times_all_in_groups_with_the_reference_last(tmp_path, monkeypatch):
    seconds = count()
    monkeypatch.setattr("nas.on_device.campaign.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    device, said = Device(), []
    log = campaign(tmp_path, device, said)
    assert all(group[-1] == REFERENCE["file"] for group in device.groups)
    assert [len(group) - 1 for group in device.groups] == [2, 5, 3, 2, 1, 2, 4]  # blocks, calibrate, validate, again
    once = [f for group in device.groups[:-1] for f in group[:-1]]
    assert once == [m["file"] for m in MODELS]
    assert device.energy == [True] * 3 + [False] * 4  # of single blocks alone, and once
    assert {f: t["ms"] for f, t in log.timed.items()} == {m["file"]: Device().one(m["file"], 1.0)["ms"] for m in MODELS}
    assert list(log.again) == [m["file"] for m in BLOCKS[::2]][:4]
    # three blocks took a second, and a network is about five
    assert said[0] == "10 blocks and 5 networks: about 12 s"
    assert said[-1][:2] == (15, 15)
    assert written(tmp_path)[-1]["finished"]
    assert not any(line.get("disturbed") for line in written(tmp_path))


def test_a_disturbed_group_is_timed_again_and_the_calm_one_kept(tmp_path):
    device = Device(slow=[1, 1.5, 1.05])
    log = campaign(tmp_path, device)
    assert device.groups[1] == device.groups[2]
    assert len(device.groups) == 8
    assert log.timed["blocks/00003"]["ms"] == pytest.approx(1.05 * 4)
    assert not any(r["disturbed"] for r in log.references)


def test_progress_says_how_far_the_reference_is_from_where_it_began(tmp_path):
    said = []
    campaign(tmp_path, Device(slow=[1, 1.02, 1.04, 2, 1.9, 2.1, 1.06]), said)
    texts = [text for _, _, text in said[1:]]
    drifts = ["+0.0%", "+2.0%", "+4.0%", "+0.0%", "-5.0%", "+5.0%", "+6.0%"]
    assert [text[-6:-1] for text in texts] == drifts
    assert ["second look" in text for text in texts] == [False] * 6 + [True]


def test_a_group_that_stays_disturbed_is_kept_and_said(tmp_path):
    device = Device(slow=[1, 1.2, 1.2, 1.3, 1.3])
    log = campaign(tmp_path, device)
    assert device.groups[1] == device.groups[2] == device.groups[3] != device.groups[4]
    assert device.groups[4] == device.groups[5]  # one slow group does not make the next one's usual
    assert [r["disturbed"] for r in log.references][:3] == [False, True, False]
    assert log.timed["blocks/00003"]["ms"] == pytest.approx(1.3 * 4)


def test_a_reference_among_networks_is_judged_by_itself(tmp_path):
    device = Device(slow=[1, 1, 1, 2, 2, 2, 1])  # between networks it finds other caches
    log = campaign(tmp_path, device)
    assert not any(r["disturbed"] for r in log.references)
    assert log.usual("again") == log.usual("block") == [8, 8, 8, 8]
    assert log.usual("validate") == [16, 16, 16]


def test_networks_with_a_block_that_failed_are_not_asked_for(tmp_path):
    device = Device(fails=["blocks/00001"])
    log = campaign(tmp_path, device)
    assert log.failed == {"blocks/00001": "no kernel"}
    assert list(log.skipped) == ["networks/00001"]
    assert not any("networks/00001" in group for group in device.groups)
    assert not log.is_open("networks/00001")
    again = Device()
    log = results.Log(log.path, MODELS, {"kit": "1"})
    log.failed.clear()
    log.skipped.clear()
    Campaign(MODELS, REFERENCE, again, log, lambda line: None, lambda *done: None).run()
    assert [f for group in again.groups for f in group[:-1]] == ["blocks/00001", "networks/00001"]


def test_a_device_that_cannot_run_the_reference_is_refused(tmp_path):
    with pytest.raises(Problem, match=r"made up cannot run even the reference block \[b7\]: no kernel"):
        campaign(tmp_path, Device(fails=[REFERENCE["file"]]))


def test_what_is_finished_is_not_timed_again(tmp_path):
    class Stops(Device):
        def time(self, models, energy):
            if len(self.groups) == 3:
                raise KeyboardInterrupt
            return super().time(models, energy)

    with pytest.raises(KeyboardInterrupt):
        campaign(tmp_path, Stops())
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"file": "networks/0')  # cut off
    rest = Device(slow=[1.5, 1.5, 1])
    log = campaign(tmp_path, rest)
    assert [f for group in rest.groups[:3] for f in group[:-1]][:2] == ["networks/00000", "networks/00001"]
    assert set(log.timed) == {m["file"] for m in MODELS}
    for other in ({"kit": "2"}, {"kit": "1", "threads": 2}):
        with pytest.raises(Problem, match=r"is a campaign for another (kit|threads)"):
            results.Log(log.path, MODELS, other)


def test_a_disturbance_after_a_restart_is_judged_by_what_was_before(tmp_path):
    log = results.Log(str(tmp_path / "results.jsonl"), MODELS, {"kit": "1"})
    log.add({"reference": 8.0, "among": "block", "disturbed": False})
    device = Device(slow=[1.5, 1.0])
    Campaign(MODELS, REFERENCE, device, log, lambda line: None, lambda *done: None).run()
    assert device.groups[0] == device.groups[1] != device.groups[2]


def test_what_is_added_is_on_disk_before_it_counts_as_done(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(fd):
        real(fd)
        synced.append((tmp_path / "results.jsonl").read_text())

    monkeypatch.setattr(results.os, "fsync", fsync)
    log = results.Log(str(tmp_path / "results.jsonl"), MODELS, {"kit": "1"})
    log.add({"conditions": {}}, {"conditions": {"load": 1}})
    assert [text.count("\n") for text in synced] == [1, 3]


def test_spans_are_words():
    assert [span(s) for s in (3, 89, 600, 7200)] == ["3 s", "89 s", "10.0 minutes", "2.0 hours"]


# ---- what is read


MANIFEST = {
    "kit": "",
    "space": {"name": "s", "fingerprint": "f"},
    "plan": {"calibrate": 3, "validate": 2, "seed": 0},
    "tools": ["onnxruntime"],
    "format": "onnx",
    "precision": "fp32",
    "batch": 1,
    "threads": 1,
    "machine": None,
    "reference": "blocks/00007",
    "models": [{**m, "sha256": "0", "bytes": 1, "input": [1, 3, 8, 8]} for m in MODELS],
}


def kit(tmp_path, manifest):
    manifest["kit"] = results.kit_id(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return str(tmp_path)


def test_a_manifest_is_read_by_schema(tmp_path):
    assert results.load_manifest(kit(tmp_path, copy.deepcopy(MANIFEST)))["reference"] == "blocks/00007"


HOSTILE = [
    ("precision", "../../x"),
    ("precision", ""),
    ("batch", 0),
    ("batch", True),
    ("threads", 1e300),
    ("space", []),
    ("tools", "onnxruntime"),
    ("plan", {"calibrate": -1, "validate": 2, "seed": 0}),
    ("plan", {"calibrate": 3, "validate": 2, "seed": 2**53}),  # which another reader of JSON would round
    ("reference", "blocks/00099"),
    ("reference", "../../etc/passwd"),
    ("models", {}),
    ("models", [3]),
    ("machine", 7),
]
HOSTILE_MODELS = [
    ("file", "../../x"),
    ("file", "blocks/00001\n"),
    ("file", "/etc/passwd"),
    ("role", "king"),
    ("key", None),
    ("blocks", [99]),
    ("blocks", [-1]),
    ("blocks", []),
    ("input", [0]),
    ("bytes", 10**400),
    ("file", "networks/00000"),
]


@pytest.mark.parametrize(("field", "value"), HOSTILE + [(f"models.{f}", v) for f, v in HOSTILE_MODELS])
def test_a_hostile_manifest_is_one_line(tmp_path, field, value):
    manifest = copy.deepcopy(MANIFEST)
    (manifest["models"][-1] if field.startswith("models.") else manifest)[field.rpartition(".")[2]] = value
    with pytest.raises(Problem, match="is not the manifest of a kit: ") as error:
        results.load_manifest(kit(tmp_path, manifest))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kit": NaN}', "", "\x00", '{"kit": ' + "9" * 5000 + "}"])
def test_text_that_is_no_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(Problem, match="is not the manifest of a kit: ") as error:
        results.load_manifest(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "[]",
        "nonsense",
        '{"ms": Infinity}',
        '{"conditions": {"odd": NaN}}',
        "{" + '"a":' * 3,
        '{"odd": 1}',
        '{"reference": 0, "among": "block", "disturbed": false}',
    ],
)
def test_lines_that_are_no_log(tmp_path, line):
    (tmp_path / "results.jsonl").write_text(f'{{"kit": "1"}}\n{line}\n')
    with pytest.raises(Problem, match=r"line 2 of results\.jsonl is not one that a campaign wrote") as error:
        results.Log(str(tmp_path / "results.jsonl"), MODELS, {"kit": "1"})
    assert "\n" not in str(error.value)


def test_a_lock_names_who_holds_it_and_goes_with_them(tmp_path):
    with (
        runner.locked(str(tmp_path)),
        pytest.raises(Problem, match=f"timed already, by process {os.getpid()}$"),
        runner.locked(str(tmp_path)),
    ):
        pass
    with runner.locked(str(tmp_path)):
        pass
    with pytest.raises(Problem, match="cannot write to"), runner.locked(str(tmp_path / "absent")):
        pass
