//! Disks by the command line: served by NBD with an overlay that survives kill -9, and backed up from a real QEMU.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use kuramori_model::{
    blocks::Blocks,
    clock::{Clock, Random, SeededRandom, SystemClock},
};
use kuramori_nbd::{Address, Client};
use tempfile::TempDir;

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        bench.ok(&["init"]);
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kuramori"));
        command
            .args(["--lang", "en", "--json", "repo"])
            .args(words)
            .env("KURAMORI_REPOSITORY", self.at("repository"))
            .env("KURAMORI_PASSWORD", "disk")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// The last line of a verb that ends well.
    fn ok(&self, words: &[&str]) -> serde_json::Value {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().last().map_or(serde_json::Value::Null, |line| serde_json::from_str(line).unwrap())
    }

    /// Serves until it is dropped; gives the export's address once it listens.
    fn serve(&self, words: &[&str]) -> (Running, Address, String, BufReader<impl Read + use<>>) {
        let mut child = self.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let running = Running(child);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).expect("it says where it listens");
        let (address, name) = Address::from_uri(told["listening"].as_str().unwrap()).unwrap();
        (running, address, name, lines)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tool(program: &str, words: &[&str]) {
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("`{program}` is needed (scripts/setup test): {error}"));
    assert!(
        output.status.success(),
        "{program} {words:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

const BLOCK: usize = 4096;
const BLOCKS: u64 = 2048;

/// Writes numbered blocks until the server dies. Gives for each block the number that was made durable last, and all
/// that came after it.
fn write_until_dead(client: &Client, random: &SeededRandom, stand: &mut [Vec<u64>], next: &mut u64) {
    loop {
        let block = random.below(BLOCKS);
        let mut data = vec![0; BLOCK];
        for word in data.chunks_mut(8) {
            word.copy_from_slice(&next.to_le_bytes());
        }
        // Once it is sent, it may be there.
        stand[usize::try_from(block).unwrap()].push(*next);
        *next += 1;
        if client.write_at(block * BLOCK as u64, &data).is_err() {
            return;
        }
        if random.below(8) == 0 {
            if client.flush().is_err() {
                return;
            }
            for versions in stand.iter_mut().filter(|versions| versions.len() > 1) {
                versions.drain(..versions.len() - 1);
            }
        }
    }
}

#[test]
fn an_overlay_keeps_what_was_flushed_through_kill_9_and_the_restore_point_never_changes() {
    let seed = 77;
    println!("seed {seed}");
    let random = SeededRandom::new(seed);
    let bench = Bench::new();
    let mut image = vec![0; BLOCK * usize::try_from(BLOCKS).unwrap()];
    random.fill(&mut image[..2 << 20]);
    let file = bench.at("disk.img");
    fs_err::write(&file, &image).unwrap();
    let id = bench.ok(&["backup", "--fixed", text(&file)])["snapshot_id"].as_str().unwrap().to_owned();
    // `repo backup` keeps a file that is named under its whole path.
    let disk = format!("{}:{}", &id[..8], text(&file));
    let (socket, overlay) = (bench.at("nbd.sock"), bench.at("overlay"));
    let words = ["nbd", &disk, "--socket", text(&socket), "--overlay", text(&overlay)];
    let mut stand: Vec<Vec<u64>> = vec![vec![0]; usize::try_from(BLOCKS).unwrap()];
    let mut next = 1;
    let rounds = if std::env::var_os("KURAMORI_LONG").is_some() { 60 } else { 4 };
    for round in 0..rounds {
        // The socket of the one that was killed still stands there.
        let (mut server, address, name, _) = bench.serve(&words);
        assert_eq!(name, "disk.img");
        let client = Client::connect(&address, &name, &[]).unwrap();
        let mut found = vec![0; image.len()];
        client.read_at(0, &mut found).unwrap();
        for (block, versions) in stand.iter_mut().enumerate() {
            let bytes = &found[block * BLOCK..(block + 1) * BLOCK];
            let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let old = versions[0] == 0 && *bytes == image[block * BLOCK..(block + 1) * BLOCK];
            let known = versions.contains(&number) && bytes.chunks(8).all(|word| word == &bytes[..8]);
            assert!(old || known, "round {round}: block {block} holds {number}, wanted one of {versions:?}");
            *versions = vec![if old { 0 } else { number }];
        }
        client.flush().unwrap();
        let (pid, pause) = (server.0.id(), 20 + random.below(150));
        let killer = std::thread::spawn(move || {
            SystemClock.sleep(Duration::from_millis(pause));
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        write_until_dead(&client, &random, &mut stand, &mut next);
        killer.join().unwrap();
        server.0.wait().unwrap();
    }
    assert!(next > 50, "something was written: {next}");
    // Somebody else's overlay, a second user of this one, an address that others reach: refused.
    let (server, ..) = bench.serve(&words);
    let second = bench.run(&["nbd", &disk, "--listen", "127.0.0.1:0", "--overlay", text(&overlay)]);
    assert_eq!(second.status.code(), Some(11), "{second:?}");
    drop(server);
    fs_err::write(&file, &image[..1 << 20]).unwrap();
    bench.ok(&["backup", "--fixed", text(&file)]);
    let other = format!("latest:{}", text(&file));
    let foreign = bench.run(&["nbd", &other, "--listen", "127.0.0.1:0", "--overlay", text(&overlay)]);
    assert_eq!(foreign.status.code(), Some(5), "{foreign:?}");
    let open = bench.run(&["nbd", &disk, "--listen", "0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&open.stderr).contains("--trust-network"));

    // With the copy the disk is whole in the overlay, and the restore point is what it was.
    let copying: Vec<&str> = words.iter().copied().chain(["--copy"]).collect();
    let (server, address, name, mut lines) = bench.serve(&copying);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("copied"), "{line}");
    let client = Client::connect(&address, &name, &[]).unwrap();
    let (mut with, mut without) = (vec![0; image.len()], vec![0; image.len()]);
    client.read_at(0, &mut with).unwrap();
    drop((client, server));
    let (_plain, address, name, _) = bench.serve(&["nbd", &disk, "--listen", "127.0.0.1:0"]);
    Client::connect(&address, &name, &[]).unwrap().read_at(0, &mut without).unwrap();
    assert!(without == image, "the restore point is what it was");
    assert!(with != image);
    bench.ok(&["check", "--read-data"]);
}

#[test]
fn a_real_qemus_disk_is_backed_up_by_its_bitmap_and_comes_back() {
    let bench = Bench::new();
    let image = bench.at("vm.qcow2");
    let io = |commands: &[&str]| {
        let words: Vec<&str> = commands.iter().flat_map(|c| ["-c", *c]).chain([text(&image)]).collect();
        tool("qemu-io", &words);
    };
    let offer = |bitmap: Option<&str>| {
        let path = bench.at("qemu.sock");
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-t", "-f", "qcow2", "-x", "vda", "-k", text(&path)]);
        if let Some(bitmap) = bitmap {
            command.args(["-B", bitmap]);
        }
        let running =
            Running(command.arg(&image).spawn().expect("`qemu-nbd` is needed (scripts/setup test)"));
        let address = Address::Unix(path);
        let uri = address.uri("vda");
        for _ in 0..1200 {
            if Client::list(&address).is_ok() {
                return (running, uri);
            }
            SystemClock.sleep(Duration::from_millis(50));
        }
        panic!("qemu-nbd does not listen");
    };
    // QEMU itself compares: its own image with what we serve.
    let compare = |snapshot: &str| {
        let disk = format!("{snapshot}:vm/vda");
        let (_server, address, name, _) = bench.serve(&["nbd", &disk, "--listen", "127.0.0.1:0"]);
        assert_eq!(name, "vda");
        tool("qemu-img", &["compare", "-q", "-f", "raw", "-F", "qcow2", &address.uri(&name), text(&image)]);
    };
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "2G"]);
    io(&["write -P 0x11 0 5M", "write -P 0x12 1500M 3M"]);
    let (qemu, uri) = offer(None);
    let full = bench.ok(&["backup-disk", &uri, "--name", "vm/vda"]);
    drop(qemu);
    assert_eq!(full["disk"]["whole"], "no_map");
    // Read as chunks of 1 MiB; what QEMU says is a hole is not read.
    assert_eq!(full["disk"]["read"].as_u64().unwrap(), 8 << 20, "{full}");
    let first = full["snapshot_id"].as_str().unwrap();
    compare(first);

    tool("qemu-img", &["bitmap", "--add", "-g", "65536", text(&image), "since"]);
    io(&["write -P 0x21 1M 64k", "write -P 0x22 1600M 1M", "discard 1500M 1M"]);
    let (qemu, uri) = offer(Some("since"));
    let increment =
        bench.ok(&["backup-disk", &uri, "--name", "vm/vda", "--bitmap", "since", "--since", first]);
    assert!(increment["disk"]["whole"].is_null(), "{increment}");
    assert_eq!(increment["disk"]["read"].as_u64().unwrap(), 2 << 20, "{increment}");
    let missing = bench.run(&["backup-disk", &uri, "--name", "vm/vda", "--bitmap", "none", "--since", first]);
    assert_eq!(missing.status.code(), Some(1), "a bitmap that is not there is no reason to skip anything");
    drop(qemu);
    compare(increment["snapshot_id"].as_str().unwrap());
    bench.ok(&["check", "--read-data"]);
}

/// Everything of a tree that a mount must show, by path.
fn look(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs_err::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            format!("{:?}", fs_err::read(&path).unwrap())
        } else if meta.is_symlink() {
            fs_err::read_link(&path).unwrap().display().to_string()
        } else {
            String::new()
        };
        let mut value = [0; 64];
        let name = "user.kuramori";
        let attribute = rustix::fs::lgetxattr(&path, name, &mut value).map(|length| value[..length].to_vec());
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let facts = format!(
            "{:o} {}:{} {}.{} {size} {attribute:?} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        found.insert(path.strip_prefix(root).unwrap().to_owned(), facts);
        if meta.is_dir() {
            look(root, &path, found);
        }
    }
}

/// Takes a mount away whatever happened in the test.
struct MountPoint(PathBuf);

impl Drop for MountPoint {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn mounted_restore_points_are_what_was_backed_up_by_system_and_time() {
    let usable = rustix::process::geteuid().is_root()
        && fs_err::OpenOptions::new().read(true).write(true).open(kuramori_mount::DEVICE).is_ok();
    if !usable {
        println!(
            "NOT TESTED: mounting needs root and a usable {}; this machine shows nothing of P-349",
            kuramori_mount::DEVICE
        );
        return;
    }
    let bench = Bench::new();
    let source = bench.at("source");
    fs_err::create_dir_all(source.join("眼科/画像")).unwrap();
    let mut noise = vec![0; 5 << 20];
    SeededRandom::new(12).fill(&mut noise);
    fs_err::write(source.join("眼科/画像/大.dcm"), &noise).unwrap();
    fs_err::write(source.join("empty"), b"").unwrap();
    fs_err::write(source.join("kept"), b"with attributes").unwrap();
    fs_err::set_permissions(source.join("kept"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    std::os::unix::fs::chown(source.join("kept"), Some(1234), Some(4321)).unwrap();
    let set = rustix::fs::XattrFlags::empty();
    // A temporary folder on a file system without attributes has none to show.
    let _ = rustix::fs::setxattr(source.join("kept"), "user.kuramori", b"raw\0value", set);
    std::os::unix::fs::symlink("../no/where", source.join("link")).unwrap();
    fs_err::create_dir(source.join("disk.segments")).unwrap();
    let first =
        bench.ok(&["backup", "--host", "pacs", text(&source)])["snapshot_id"].as_str().unwrap().to_owned();
    let mut truth = BTreeMap::new();
    look(&source, &source, &mut truth);

    let at = bench.at("mounted");
    fs_err::create_dir(&at).unwrap();
    let _away = MountPoint(at.clone());
    let start = || {
        let mut child = bench.command(&["mount", text(&at)]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("mounted"), "{line}");
        Running(child)
    };
    let mut running = start();
    let inner = source.strip_prefix("/").unwrap();
    let root = at.join("by-id").join(&first[..8]).join(inner);
    let mut found = BTreeMap::new();
    look(&root, &root, &mut found);
    // `disk.segments` is a folder like any other here, because no segments lie in it.
    assert_eq!(found, truth);
    let systems: Vec<_> =
        fs_err::read_dir(at.join("by-system")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(systems, ["pacs"]);
    // Places out of order, as a viewer of pictures reads.
    let file = fs_err::File::open(root.join("眼科/画像/大.dcm")).unwrap();
    let random = SeededRandom::new(5);
    for _ in 0..50 {
        let place = usize::try_from(random.below(5 << 20)).unwrap();
        let mut part = vec![0; usize::try_from(random.below(70_000)).unwrap().min(noise.len() - place)];
        file.file().read_exact_at(&mut part, place as u64).unwrap();
        assert!(part == noise[place..place + part.len()]);
    }
    drop(file);
    assert!(fs_err::write(root.join("kept"), b"encrypted").is_err());
    assert!(fs_err::remove_file(root.join("kept")).is_err());
    assert!(fs_err::read(root.join("nothing")).is_err());

    // A new restore point appears, and `latest` leads to it.
    fs_err::write(source.join("new"), b"new").unwrap();
    bench.ok(&["backup", "--host", "pacs", text(&source)]);
    let newest = at.join("by-system/pacs/latest").join(inner).join("new");
    let appeared = (0..600).any(|_| {
        SystemClock.sleep(Duration::from_millis(100));
        fs_err::read(&newest).is_ok_and(|bytes| bytes == b"new")
    });
    assert!(appeared);
    assert_eq!(fs_err::read_dir(at.join("by-system/pacs")).unwrap().count(), 3, "two points and the link");

    let pid = rustix::process::Pid::from_raw(i32::try_from(running.0.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(running.0.wait().unwrap().success());
    assert_eq!(fs_err::read_dir(&at).unwrap().count(), 0, "the folder is free again");
    // Taken away from outside, the verb ends as well.
    let mut again = start();
    tool("umount", &[text(&at)]);
    assert!(again.0.wait().unwrap().success());
}
