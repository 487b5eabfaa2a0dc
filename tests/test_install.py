"""What is built can be installed and used from anywhere: the wheel, in an environment of its own, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import nas

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def ran(*command: object, cwd: Path) -> str:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def sources() -> list[str]:
    """Of the checkout: what git knows, or will."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = ran(*listed, cwd=ROOT).splitlines()
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    for name in sources():
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "source" / name).symlink_to(ROOT / name)
    ran(sys.executable, "-c", BUILD, place, cwd=place / "source")
    (built,) = place.glob("*.whl")
    return built


def test_the_wheel_carries_every_file_of_the_packages(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    ours = {name for name in sources() if name.startswith(("nas/", "search_spaces/", "latency_tables/"))}
    assert ours - packed == set()
    assert {name for name in packed if ".dist-info/" not in name} == ours
    assert wheel.name.startswith(f"nas-{nas.__version__}-")


def test_an_installed_wheel_works_in_an_empty_folder(wheel, tmp_path):
    """Its own environment has nothing but it; the packages that it needs are those of this interpreter."""
    home, empty = tmp_path / "env", tmp_path / "empty"
    empty.mkdir()
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    ran(sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=empty)
    (site,) = (home / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not read
    says = "import nas; print(nas.__file__, nas.LatencyTable.load('raspi4_fbnet_b1').name)"
    found, table = ran(python, "-c", says, cwd=empty).split()
    assert (found, table) == (str(site / "nas" / "__init__.py"), "raspi4_tflite_fp32_b1_t1")
    assert "raspi4_fbnet_b1 " in ran(home / "bin" / "nas", "tables", cwd=empty)
    assert "mobilenet_v3.digits " in ran(python, "-m", "nas", "spaces", cwd=empty)
    assert not list(empty.iterdir())
