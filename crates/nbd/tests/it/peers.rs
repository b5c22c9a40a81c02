//! QEMU's and libnbd's own programs on the other side.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kuramori_model::{
    blocks::Blocks,
    clock::{Clock, SystemClock},
};
use kuramori_nbd::{
    Address, BaseId, Client, Limits, Overlay, Server,
    wire::{ALLOCATION, QEMU_BITMAP, WRITTEN},
};

use super::common::{Memory, Served, at, export, patchy, run, socket};

const SIZE: usize = (37 << 20) + 5 * 512;

#[test]
fn qemu_and_libnbd_read_exactly_the_disk_with_its_holes() {
    let truth = patchy(1, SIZE);
    let exports =
        vec![export("眼科 disk", Memory::new(truth.clone())), export("other", Memory::patchy(2, 1 << 20))];
    let served = Served::new(exports.clone(), Limits::default());
    let tcp = Server::bind(
        &Address::Tcp("127.0.0.1:0".parse().unwrap()),
        exports,
        Limits::default(),
        Arc::new(SystemClock),
    )
    .unwrap()
    .start()
    .unwrap();
    let out = served.dir.path().join("out");
    for address in [served.handle.address(), tcp.address()] {
        let uri = address.uri("眼科 disk");
        let told: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])).unwrap();
        let export = &told["exports"][0];
        assert_eq!(export["export-size"], SIZE, "{told}");
        assert_eq!(export["is_read_only"], true);
        assert_eq!(export["can_multi_conn"], true);
        assert_eq!(export["contexts"][0], ALLOCATION);
        assert_eq!(told["structured"], true);
        let list: serde_json::Value =
            serde_json::from_str(&run("nbdinfo", &["--list", "--json", &address.uri("")])).unwrap();
        let names: Vec<_> =
            list["exports"].as_array().unwrap().iter().map(|export| &export["export-name"]).collect();
        assert_eq!(names, ["眼科 disk", "other"]);

        run("nbdcopy", &["--connections=4", &uri, at(&out)]);
        assert!(fs_err::read(&out).unwrap() == truth, "nbdcopy of {uri}");
        fs_err::remove_file(&out).unwrap();
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, at(&out)]);
        assert!(fs_err::read(&out).unwrap() == truth, "qemu-img convert of {uri}");
        fs_err::remove_file(&out).unwrap();
    }
    // The holes that they see are those of the disk.
    let map: serde_json::Value =
        serde_json::from_str(&run("nbdinfo", &["--map", "--json", &served.uri("眼科 disk")])).unwrap();
    let (mut end, mut holes) = (0, 0);
    for run in map.as_array().unwrap() {
        let (from, length) = (run["offset"].as_u64().unwrap(), run["length"].as_u64().unwrap());
        assert_eq!(from, end, "no gap and no overlap");
        end += length;
        let zeros = truth[from as usize..end as usize].iter().all(|byte| *byte == 0);
        assert!(run["type"] == 0 || zeros, "a hole holds no data: {run}");
        holes += u64::from(run["type"] == 3) * length;
    }
    assert_eq!(end, SIZE as u64);
    assert!(holes > 5 << 20, "{holes} bytes of holes are seen");
}

#[test]
fn qemu_writes_flushes_and_discards_on_an_overlay_and_the_base_never_changes() {
    let truth = patchy(3, 8 << 20);
    let base = Memory::new(truth.clone());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("overlay");
    let open = || Overlay::open(&file, base.clone(), BaseId([1; 32]));
    let overlay = Arc::new(open().unwrap());
    assert!(matches!(open(), Err(kuramori_nbd::Error::Busy { .. })), "one process at a time");
    let served = Served::one(Arc::clone(&overlay) as Arc<dyn Blocks>);
    let uri = served.uri("disk");
    let commands = [
        "write -P 0xab 1000448 70144",
        "flush",
        "write -f -P 0x11 4194304 512",
        "write -z 2097152 131072",
        "write -z -u 3145728 262144",
        "discard 5242880 1048576",
        "read -P 0xab 1000448 70144",
        "read -P 0 2097152 131072",
        "read -P 0 5242880 1048576",
    ];
    let words: Vec<&str> = ["-f", "raw"]
        .into_iter()
        .chain(commands.iter().flat_map(|c| ["-c", *c]))
        .chain([uri.as_str()])
        .collect();
    let said = run("qemu-io", &words);
    assert!(!said.contains("Pattern verification failed") && !said.contains("error"), "{said}");
    let mut wanted = truth.clone();
    wanted[1_000_448..1_070_592].fill(0xab);
    wanted[4_194_304..4_194_816].fill(0x11);
    wanted[2_097_152..2_228_224].fill(0);
    wanted[3_145_728..3_407_872].fill(0);
    wanted[5_242_880..6_291_456].fill(0);
    let out = dir.path().join("out");
    run("nbdcopy", &[&uri, at(&out)]);
    assert!(fs_err::read(&out).unwrap() == wanted);
    assert!(*base.bytes.read().unwrap() == truth, "what lies below never changes");
    let (_, length) = (0, fs_err::metadata(&file).unwrap());
    let room = std::os::unix::fs::MetadataExt::blocks(&length) * 512;
    assert!(room < 2 << 20, "an overlay takes room for what was written: {room}");

    // What changed is a context of its own.
    let client = Client::connect(served.handle.address(), "disk", &[WRITTEN]).unwrap();
    let marked = client.marked(WRITTEN).unwrap();
    assert_eq!(marked[0], 999_424..1_073_152, "whole blocks of 4 KiB");
    assert_eq!(marked.last().unwrap(), &(5_242_880..6_291_456));
    drop((client, served));

    // Another disk, another size, a damaged header: refused, and nothing is changed.
    drop(overlay);
    let before = fs_err::read(&file).unwrap();
    assert!(Overlay::open(&file, base.clone(), BaseId([2; 32])).is_err());
    assert!(Overlay::open(&file, Memory::patchy(3, 4 << 20), BaseId([1; 32])).is_err());
    assert!(fs_err::read(&file).unwrap() == before);
    let again = open().unwrap();
    let mut found = vec![0; wanted.len()];
    again.read_at(0, &mut found).unwrap();
    assert!(found == wanted, "it is all there after it was closed");
    // The copy of what is still missing makes it independent of the disk below.
    let mut next = Some(0);
    while let Some(place) = next {
        next = again.fill(place).unwrap();
    }
    again.flush().unwrap();
    assert!(again.is_whole());
    drop(again);
    base.bytes.write().unwrap().fill(0xee);
    open().unwrap().read_at(0, &mut found).unwrap();
    assert!(found == wanted, "nothing is read from below any more");
    let mut damaged = before;
    damaged[17] ^= 1;
    fs_err::write(&file, damaged).unwrap();
    assert!(matches!(open(), Err(kuramori_nbd::Error::Foreign { .. })));
}

/// A real `qemu-nbd` that ends with the test.
struct QemuNbd(Child);

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_client_reads_a_real_qemu_and_its_bitmap_of_changes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2");
    let io = |commands: &[&str]| {
        let words: Vec<&str> = commands.iter().flat_map(|c| ["-c", *c]).chain([at(&image)]).collect();
        run("qemu-io", &words);
    };
    run("qemu-img", &["create", "-q", "-f", "qcow2", at(&image), "64M"]);
    io(&["write -P 0x21 0 3M", "write -P 0x22 40M 1M"]);
    run("qemu-img", &["bitmap", "--add", "-g", "65536", at(&image), "since"]);
    io(&["write -P 0x31 1M 64k", "write -P 0x32 50M 128k"]);
    let path = socket(dir.path());
    let child = Command::new("qemu-nbd")
        .args([
            "-r",
            "-t",
            "-e",
            "4",
            "-f",
            "qcow2",
            "-B",
            "since",
            "-x",
            "disk",
            "-k",
            at(&path),
            at(&image),
        ])
        .stderr(Stdio::inherit())
        .spawn()
        .expect("`qemu-nbd` is needed (scripts/setup test)");
    let _qemu = QemuNbd(child);
    let address = Address::Unix(path);
    let context = format!("{QEMU_BITMAP}since");
    let client = (0..600)
        .find_map(|_| {
            let tried = Client::connect(&address, "disk", &[&context, "x:unknown"]);
            tried.map_err(|_| SystemClock.sleep(Duration::from_millis(50))).ok()
        })
        .expect("qemu-nbd listens within 30 s");
    assert_eq!(client.contexts().collect::<Vec<_>>(), [ALLOCATION, context.as_str()]);
    assert_eq!(client.size(), 64 << 20);
    assert_eq!(
        client.marked(&context).unwrap(),
        [1 << 20..(1 << 20) + 65_536, 50 << 20..(50 << 20) + 131_072]
    );
    let raw = dir.path().join("raw");
    run("qemu-img", &["convert", "-U", "-O", "raw", at(&image), at(&raw)]);
    let truth = fs_err::read(&raw).unwrap();
    let mut found = vec![0xff; truth.len()];
    client.read_at(0, &mut found).unwrap();
    assert!(found == truth);
    let hole = client.extent(10 << 20, 1 << 20).unwrap();
    assert!(hole.zero && hole.length == 1 << 20, "{hole:?}");
    assert_eq!(Client::list(&address).unwrap()[0].name, "disk");
    assert!(client.write_at(0, b"no").is_err(), "it is read-only");
    let missing = Client::connect(&address, "missing", &[]).unwrap_err();
    assert!(matches!(missing, kuramori_nbd::Error::Refused { .. }), "{missing}");
}
