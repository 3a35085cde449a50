"""Free RAM: the least of what the system has and what the control groups allow."""

from types import SimpleNamespace

import psutil
import pytest

from diffusers_helper.memory.ram import Ram, free_ram

GB = 10**9


@pytest.fixture(autouse=True)
def _system(monkeypatch):
    """A system with 20 GB of RAM and 8 GB of swap free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=20 * GB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=8 * GB))


def v2(limit, current, files=0, swap="max", swap_current=0):
    return {
        "memory.max": limit,
        "memory.current": current,
        "memory.stat": f"anon 5\nactive_file {files // 2}\ninactive_file {files - files // 2}\nfile 99",
        "memory.swap.max": swap,
        "memory.swap.current": swap_current,
    }


def v1(limit, usage, files=0):
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": usage,
        "memory.stat": f"inactive_file 7\ntotal_active_file {files}\ntotal_inactive_file 0",
    }


@pytest.mark.parametrize(
    ("membership", "groups", "expected"),
    [
        (None, {}, Ram(20 * GB, 8 * GB)),
        ("0::/", {}, Ram(20 * GB, 8 * GB)),
        ("0::/", {"": v2("max", 3 * GB)}, Ram(20 * GB, 8 * GB)),
        ("0::/", {"": v2(16 * GB, 10 * GB)}, Ram(6 * GB, 8 * GB)),
        ("0::/", {"": v2(16 * GB, 10 * GB, files=4 * GB)}, Ram(10 * GB, 8 * GB)),
        ("0::/", {"": v2(64 * GB, 10 * GB)}, Ram(20 * GB, 8 * GB)),
        ("0::/", {"": v2(16 * GB, 17 * GB, swap=2 * GB, swap_current=GB)}, Ram(0, GB)),
        ("0::/", {"": v2(16 * GB, 1 * GB, swap=0)}, Ram(15 * GB, 0)),
        ("0::/a/b", {"a/b": v2("max", 1), "a": v2(12 * GB, 5 * GB), "": {}}, Ram(7 * GB, 8 * GB)),
        ("0::/docker/123", {"": v2(12 * GB, 5 * GB)}, Ram(7 * GB, 8 * GB)),
        ("0::/../other", {"": v2(12 * GB, 5 * GB)}, Ram(7 * GB, 8 * GB)),
        ("5:cpu:/a\n4:memory:/a", {"memory/a": v1(9 * GB, 4 * GB, files=GB)}, Ram(6 * GB, 8 * GB)),
        ("5:cpu:/a\n4:memory:/a", {"memory/a": v1(2**63 - 4096, 4 * GB)}, Ram(20 * GB, 8 * GB)),
        ("4:memory:/docker/1", {"memory": v1(9 * GB, 4 * GB)}, Ram(5 * GB, 8 * GB)),
    ],
)
def test_limits(tmp_path, membership, groups, expected):
    for folder, files in groups.items():
        (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / "groups" / folder / name).write_text(f"{content}\n")
    if membership is not None:
        (tmp_path / "cgroup").write_text(membership)
    assert free_ram(tmp_path / "groups", tmp_path / "cgroup") == expected


def test_this_computer_has_some():
    assert free_ram().available > 0
