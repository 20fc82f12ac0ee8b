# SPDX-License-Identifier: GPL-2.0-or-later
"""crisis-merge and crisis-heat with what commands print on this machine, and --openmetrics.

ClusterShell runs the command once for each of 50 "hosts", which all are this machine.
"""

import array
import collections
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import termios
import time
from xml.etree import ElementTree

import pytest

from helpers import SLOW, become_nobody, peak_memory, run, tool, until


def clush(hosts, command):
    """What `clush -L` prints of a shell command on some hosts, %h being the host's name."""
    if not shutil.which("clush"):
        pytest.skip("clush is not installed (Debian: clustershell)")
    return subprocess.run(
        ["clush", "-q", "-L", "-f", "16", "-w", hosts, "--worker=exec", "-R", "exec", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300 * SLOW,
    ).stdout


def merge(text, *arguments, status=0):
    """The JSON records of crisis-merge."""
    result = subprocess.run(
        [tool("crisis-merge"), "-j", *arguments], input=text, capture_output=True, text=True
    )
    assert result.returncode == status, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def parts(text):
    """{host: [record]} of the lines of clush."""
    found = collections.defaultdict(list)
    for line in text.splitlines():
        host, _, record = line.partition(": ")
        found[host].append(json.loads(record))
    return found


@pytest.mark.parametrize("option", ["", "--steps 2"])
def test_histograms_of_50_hosts(option):
    text = clush("web[1-50]", f"{tool('runqlat')} -j {option} 1 1")
    found = parts(text)
    assert len(found) == 50
    whole, hosts = merge(text, "--hosts", "web[1-50]")
    records = [record for own in found.values() for record in own]
    for key in "count", "total_ns":
        assert whole[key] == sum(record[key] for record in records)
    assert whole["max_ns"] == max(record["max_ns"] or 0 for record in records)
    assert whole["lost"] == {
        key: sum(record["lost"][key] for record in records) for key in records[0]["lost"]
    }
    counts = collections.Counter()
    for record in records:
        for bucket in record["buckets"]:
            counts[bucket["lo_us"], bucket["hi_us"]] += bucket["count"]
    assert {(b["lo_us"], b["hi_us"]): b["count"] for b in whole["buckets"]} == counts
    worst = max(records, key=lambda record: record["p99_us"] or 0)["p99_us"]
    assert whole["worst"][0]["p99_us"] == worst
    assert (whole["hosts"], hosts["hosts"], hosts["listed"]) == (50, 50, 0)


@pytest.mark.parametrize(
    "command",
    ["irqtime -d", "softirqs -d", "hardirqs", "cachestat", "psi", "nicstat -y", "runqlat --cpu"],
)
def test_other_commands(command):
    """Every amount is the sum; whole records are compared by the unit tests."""
    name, *arguments = command.split()
    text = clush("db[1-3]", " ".join([tool(name), "-j", *arguments, "1", "1"]))
    found = parts(text)
    merged = merge(text)
    assert merged[-1]["hosts"] == 3 and merged[-1]["listed"] == 0
    amounts = ("count", "total_ns", "hits", "dirties", "io_some_us", "rx_bytes", "tx_packets")
    checked = 0
    for key in amounts:
        values = [r[key] for own in found.values() for r in own if r.get(key) is not None]
        if values:
            checked += 1
            assert sum(record.get(key) or 0 for record in merged) == sum(values), key
    assert checked


def test_hosts_that_fail_hang_or_print_rubbish(tmp_path):
    script = tmp_path / "script"
    script.write_text(
        f"""case $1 in
        web1|web2) {tool("runqlat")} -j .5 2;;
        web3) exit 77;;
        web4) echo Welcome;;
        web5) sleep 600;;
        web6) {tool("runqlat")} -j .5 2 | head -1;;
        web7) printf '{{"time":"2026';;
        esac"""
    )
    text = clush("web[1-7]", f"timeout -s KILL {10 * SLOW} sh {script} %h")
    hosts = {r["host"]: r["state"] for r in merge(text, "--hosts", "web[1-8]", status=1)[1:-1]}
    assert hosts.pop("web6") == "incomplete"
    assert hosts.pop("web5") in ("failed", "missing")
    assert hosts == {"web3": "failed", "web4": "rubbish", "web7": "truncated", "web8": "missing"}


def unread(pipe):
    """The bytes in a pipe."""
    size = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0]


def test_500_hosts_in_little_memory():
    line = run("runqlat", "-j", ".5", "1").stdout
    with subprocess.Popen(
        [tool("crisis-merge"), "-j"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdin.write("".join(f"web{n}: {line}" for n in range(500)).encode())
        child.stdin.flush()
        until(lambda: not unread(child.stdin))
        peak = peak_memory(child.pid)
        out, _ = child.communicate()
    one, whole = json.loads(line), json.loads(out.splitlines()[0])
    assert child.returncode == 0
    assert whole["count"] == 500 * one["count"] and whole["hosts"] == 500
    assert peak < 40000000


def test_a_heat_map_of_the_run_queue():
    text = run("runqlat", "-j", ".2", "10").stdout
    records = [json.loads(line) for line in text.splitlines()]

    def heat(*arguments):
        return subprocess.run(
            [tool("crisis-heat"), *arguments], input=text, capture_output=True, text=True
        )

    columns = [json.loads(line) for line in heat("-j").stdout.splitlines()]
    events = sum(bucket["count"] for column in columns for bucket in column["buckets"])
    assert events == sum(record["count"] for record in records) and len(columns) <= 10
    shown = heat()
    assert shown.returncode == 0 and f"{events} events" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    image = ElementTree.fromstring(heat("--svg").stdout)
    cells = [cell for cell in image.iter() if cell.tag.endswith("rect") and len(cell)]
    titles = [cell[0].text for cell in cells]
    assert sum(int(re.search(r": (\d+) events", title)[1]) for title in titles) == events


def test_a_stop_draws_what_there_is():
    source = subprocess.Popen([tool("runqlat"), "-j", ".2"], stdout=subprocess.PIPE)
    child = subprocess.Popen(
        [tool("crisis-heat")], stdin=source.stdout, stdout=subprocess.PIPE, text=True
    )
    time.sleep(3 * SLOW)
    child.send_signal(signal.SIGINT)
    out = child.communicate(timeout=10 * SLOW)[0]
    source.kill()
    source.communicate()
    assert child.returncode == 0 and "events" in out


@pytest.mark.parametrize(
    "command, metric",
    [
        ("runqlat .5 2", "crisis_runqlat_seconds_count"),
        ("irqtime -d .5 2", "crisis_irqtime_cpu_ratio"),
        ("cachestat .5 2", "crisis_cachestat_hits"),
        ("psi .5 2", "crisis_psi_cpu_some_ratio"),
        ("nicstat .5 2", "crisis_nicstat_rx_bytes"),
        ("delays .5 2", "crisis_delays_cpu_total_seconds"),
        ("drsnoop .5 2", "crisis_drsnoop_reclaims"),
        ("wss self .5 1", "crisis_wss_rss_bytes"),
    ],
)
def test_metrics(tmp_path, command, metric):
    name, *arguments = command.split()
    if "self" in arguments:
        arguments[arguments.index("self")] = str(os.getpid())
    path = tmp_path / "crisis.prom"
    result = run(name, "--openmetrics", str(path), *arguments)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    text = path.read_text()
    assert re.search(rf"^{metric}[{{ ]", text, re.M)
    assert os.listdir(tmp_path) == ["crisis.prom"]
    if shutil.which("promtool"):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, text=True, capture_output=True
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_metrics_in_a_directory_that_is_not_writable(tmp_path):
    os.chmod(tmp_path, 0o755)
    result = run("psi", "--openmetrics", "/crisis.prom", "1", "1", preexec_fn=become_nobody)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "not writable" in result.stderr
