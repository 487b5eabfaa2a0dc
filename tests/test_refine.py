"""Corrections of single blocks: used where isolated timings mislead, left out where they do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import nas
from nas.device import Device
from nas.measuring.assemble import assemble
from nas.measuring.plan import plan
from nas.tables.table import LatencyTable
from nas.tables.validation import distinct_archs
from search_spaces import MobileNetV3

SPACE = MobileNetV3.digits()
PLAN = plan(SPACE, calibrate=40, validate=30)
DEVICE = Device(name="fake", chip="fake", runtime="fake", version="1", precision="fp32")


def inside(block):
    return 0.01 + block.macs / 2e7


def converting(block):
    """Alone, a block pays to convert its layout; how much depends on what it is, not only on how large."""
    return {24: 0.3, 40: 0.05}.get(block.in_ch, 0.0) * inside(block) + (0.01 if getattr(block, "se", 0) else 0.0)


def campaign(extra, noise=0.005):
    rng = np.random.default_rng(0)
    ms = np.array([inside(b) + extra(b) for b in SPACE.blocks]) * (1 + noise * rng.standard_normal(len(SPACE.blocks)))
    keys = [b.key for b in SPACE.blocks]
    rows = pd.DataFrame({"block": keys, "latency_ms": ms, "p10_ms": ms, "p90_ms": ms, "runs": 9})
    networks = np.array([0.02 + sum(inside(b) for b in n) for n in SPACE.networks(PLAN.archs)])
    table, _ = assemble(PLAN, DEVICE, rows, networks * (1 + noise * rng.standard_normal(len(networks))))
    return table


def error(table):
    unseen = distinct_archs(SPACE, 300, 99)
    truth = np.array([0.02 + sum(inside(b) for b in n) for n in SPACE.networks(unseen)])
    return float(np.abs(nas.latency(SPACE, table)(unseen) / truth - 1).mean())


def test_what_depends_on_the_block_is_corrected(tmp_path):
    table = campaign(converting)
    before, after = table.notes["corrected"]["mape_before"], table.notes["corrected"]["mape_after"]
    assert after < 0.8 * before
    plain = dataclasses.replace(table, rows=table.rows.drop(columns="correction_ms"))
    assert error(table) < 0.7 * error(plain)
    assert (table.effective_ms > 0).all()
    table.save(tmp_path / "t")
    loaded = LatencyTable.load(tmp_path / "t")
    assert loaded.lookup(SPACE.blocks) == pytest.approx(table.lookup(SPACE.blocks), rel=1e-4)
    assert loaded.fingerprint != plain.fingerprint
    assert error(loaded) == pytest.approx(error(table), rel=0.01)


def test_nothing_is_corrected_where_the_calibration_suffices():
    table = campaign(lambda block: 0.02)
    assert "correction_ms" not in table.rows
    assert error(table) < 0.01
