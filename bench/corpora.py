"""Seeded corpora: what hospitals back up, made without any patient's data."""

import os
import random
import shutil
import subprocess
from pathlib import Path


def pacs(folder, scale, seed):
    """CT-like DICOM files of 512 KiB with 12-bit noise over smooth shapes, 40 to a study."""
    rng = random.Random(seed)
    # A few thousand rows of 512 pixels, reused in other orders: real pixel statistics at generator speed.
    rows = []
    for index in range(4096):
        level = 900 + 700 * ((index * 37) % 64) // 64
        noise = rng.randbytes(512)
        rows.append(b"".join((level + (x * (index % 7)) // 8 + (noise[x] & 31)).to_bytes(2, "little") for x in range(512)))
    for number in range(int(1900 * scale)):
        study = folder / f"study{number // 40:04}"
        study.mkdir(parents=True, exist_ok=True)
        uid = f"1.2.826.0.1.3680043.10.1{seed}.{number}".encode()
        header = bytes(128) + b"DICM" + uid.ljust(64, b"\0") + rng.randbytes(300)
        (study / f"{number:06}.dcm").write_bytes(header + b"".join(rng.choices(rows, k=512)))


def small(folder, scale, seed):
    """100,000 small files: text of a departmental system, 0.2 to 60 KiB, most of them small."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    text = " ".join(rng.choices(words, k=400_000)).encode()
    for number in range(int(100_000 * scale)):
        part = folder / f"{number // 10_000:02}" / f"{number // 100 % 100:02}"
        part.mkdir(parents=True, exist_ok=True)
        size = min(61_440, int(rng.lognormvariate(8.7, 1.1)) + 200)
        start = rng.randrange(len(text) - size)
        (part / f"{number:06}.txt").write_bytes(rng.randbytes(16).hex().encode() + text[start : start + size])


def postgres(folder, scale, seed):
    """A PostgreSQL cluster filled by pgbench, stopped, and a dump of it. pgbench takes the seed."""
    binaries = Path("/usr/lib/postgresql/15/bin")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    cluster = folder / "cluster"
    shutil.chown(folder, "postgres", "postgres") if as_user else None

    def call(*command):
        subprocess.run([*as_user, *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")

    call(binaries / "initdb", "-D", cluster, "-A", "trust", "--no-sync")
    call(binaries / "pg_ctl", "-D", cluster, "-w", "-o", f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off", "-l", folder / "log", "start")
    call(binaries / "pgbench", "-h", folder, "-i", "-q", "-s", max(1, int(100 * scale)), "postgres")
    call(binaries / "pgbench", "-h", folder, "-n", "-t", "2000", f"--random-seed={seed}", "postgres")
    call(binaries / "pg_dump", "-h", folder, "-f", folder / "dump.sql", "postgres")
    call(binaries / "pg_ctl", "-D", cluster, "-w", "stop")


def disk(folder, scale, seed):
    """A disk of 8 GiB with an ext4 file system that holds half-compressible files, a quarter full."""
    rng = random.Random(seed)
    image, tree = folder / "disk.raw", folder.parent / f"{folder.name}-tree"
    text = b"".join(b"%08x order %d settled\n" % (rng.getrandbits(32), n) for n in range(40_000))
    for number in range(max(1, int(500 * scale))):
        part = tree / f"{number // 50:02}"
        part.mkdir(parents=True, exist_ok=True)
        size = rng.randrange(1 << 20, 7 << 20)
        with open(part / f"{number}.bin", "wb") as file:
            while file.tell() < size:
                start = rng.randrange(len(text) - 60_000)
                file.write(rng.randbytes(40_000) + text[start : start + 60_000])
    with open(image, "wb") as file:
        file.truncate(int(scale * (8 << 30)))
    options = f"hash_seed={'5' * 8}-{'5' * 4}-{'5' * 4}-{'5' * 4}-{'5' * 12},lazy_itable_init=1"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", options, "-d", tree, image], check=True)
    shutil.rmtree(tree)


def scatter(image, seed, share=0.05):
    """Overwrites a share of the disk's used 64 KiB blocks with other bytes, scattered."""
    rng = random.Random(seed)
    block = 64 << 10
    with open(image, "r+b") as file:
        used = []
        for number in range(os.path.getsize(image) // block):
            file.seek(number * block)
            if any(file.read(64)):
                used.append(number)
        for number in rng.sample(used, int(len(used) * share)):
            file.seek(number * block + 4096)
            file.write(rng.randbytes(8192))


CORPORA = {"pacs": pacs, "small": small, "postgres": postgres, "disk": disk}


if __name__ == "__main__":
    # `corpora.py NAME FOLDER SCALE SEED`: in a process of its own, whose memory is not counted anywhere.
    import sys

    name, place, size, number = sys.argv[1:]
    CORPORA[name](Path(place), float(size), int(number))
