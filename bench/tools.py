"""The programs that are compared, each with the calls for one step."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
VENV = ROOT / "target/tools"
PASSWORD = "bench-only"
LEVEL = 3


def run(command, env=None, cwd=None):
    """Runs a command; gives wall seconds, CPU seconds and peak resident MiB. Ends the bench if it fails."""
    log = tempfile.TemporaryFile()
    # A forked process inherits the peak of its parent, and this one has listed a hundred thousand files: so the
    # peak is GNU time's word, which is small when it starts the program.
    peak = tempfile.NamedTemporaryFile()
    command = ["/usr/bin/time", "-q", "-o", peak.name, "-f", "%M", *command]
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, env={**os.environ, **(env or {})})
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        log.seek(0)
        sys.exit(f"{' '.join(map(str, command))}: exit {child.returncode}\n{log.read()[-2000:].decode(errors='replace')}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_mib": int(peak.read()) / 1024}



class Kuramori:
    name = "kuramori"

    def __init__(self, repo, work):
        self.program = BUILD / "release/kuramori"
        self.repo, self.env = repo, {"KURAMORI_PASSWORD": PASSWORD}

    def call(self, *words):
        return run([self.program, "--no-progress", "-q", "repo", *map(str, words)], self.env)

    def init(self):
        self.call("init", "-r", self.repo)

    def backup(self, source):
        # A disk changes in place: the engine's own policy for it.
        fixed = ["--fixed"] if "disk" in source.name else []
        return self.call("backup", "--level", LEVEL, *fixed, "-r", self.repo, source)

    def restore(self, target):
        return self.call("restore", "-r", self.repo, "latest", "--target", target)


class Restic:
    name = "restic"

    def __init__(self, repo, work):
        self.repo, self.env = repo, {"RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": str(work / "restic-cache")}

    def call(self, *words):
        return run(["restic", "-q", "-r", self.repo, *map(str, words)], self.env)

    def init(self):
        self.call("init")

    def backup(self, source):
        return self.call("backup", source)

    def restore(self, target):
        return self.call("restore", "latest", "--target", target)


class Borg:
    name = "borg"

    def __init__(self, repo, work):
        self.program = VENV / "bin/borg"
        self.repo, self.count = repo, 0
        self.env = {"BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(work / "borg")}

    def call(self, *words, cwd=None):
        return run([self.program, *map(str, words)], self.env, cwd)

    def init(self):
        self.call("init", "-e", "repokey", self.repo)

    def backup(self, source):
        self.count += 1
        return self.call("create", "--compression", f"zstd,{LEVEL}", f"{self.repo}::a{self.count}", source)

    def restore(self, target):
        target.mkdir()
        return self.call("extract", f"{self.repo}::a{self.count}", cwd=target)


TOOLS = (Kuramori, Restic, Borg)
