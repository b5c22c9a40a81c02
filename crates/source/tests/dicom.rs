//! Copies a real Orthanc and gives it back to another one.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;
#[path = "dicom/liar.rs"]
mod liar;
#[path = "dicom/other.rs"]
mod other;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use common::{
    Folder, control, once_after,
    orthanc::{Orthanc, dicom, made},
    secret,
};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::Fault,
    tree::{Earlier, Entry, EntryKind, FileTime, Meta, Sink, SinkError, TreePath},
};
use kuramori_source::{
    Config, Control, Error, Report, Source,
    config::{DicomConfig, DicomExpect, GentleConfig, Probe, ProbeBounds, Span},
    dicom::{DicomSource, restore::give_back},
    gentle::GentleSource,
    report::{DicomOrigin, Origin},
};
use rustix::process::{Signal, kill_process_group};

/// As the engine does, this one knows a file by size, time *and* inode.
#[derive(Debug)]
struct Strict {
    folder: Folder,
    marks: std::collections::BTreeMap<TreePath, (u64, i64, u64)>,
    put: Vec<String>,
    before: std::collections::BTreeMap<TreePath, (u64, i64, u64)>,
    before_root: PathBuf,
}

impl Strict {
    fn new(root: &Path, before: Option<&Self>) -> Self {
        let before_root = before.map(|before| before.folder.root.clone()).unwrap_or_default();
        let before = before.map(|before| before.marks.clone()).unwrap_or_default();
        fs_err::create_dir_all(root).unwrap();
        // What is kept has its content there, too.
        if !before.is_empty() {
            let from = format!("{}/.", before_root.display());
            assert!(Command::new("cp").arg("-a").args([&from]).arg(root).status().unwrap().success());
        }
        Self {
            folder: Folder::new(root),
            marks: std::collections::BTreeMap::default(),
            put: Vec::new(),
            before,
            before_root,
        }
    }

    fn mark(entry: &Entry) -> (u64, i64, u64) {
        let EntryKind::File { size } = entry.kind else { panic!("{entry:?}") };
        (size, entry.meta.mtime.seconds, entry.meta.inode)
    }
}

impl Sink for Strict {
    fn known(&mut self, entry: &Entry) -> bool {
        self.before.get(&entry.path) == Some(&Self::mark(entry))
    }
    fn keep(&mut self, entry: Entry) -> Result<(), SinkError> {
        self.marks.insert(entry.path.clone(), Self::mark(&entry));
        self.folder.keep(entry)
    }
    fn put(&mut self, entry: Entry, content: &mut dyn std::io::Read) -> Result<(), SinkError> {
        let (path, mark) = (entry.path.clone(), Self::mark(&entry));
        self.put.push(path.to_string());
        self.folder.put(entry, content)?;
        // What was announced is what came, to the byte.
        if let Some((size, _)) = self.folder.put.get(&path) {
            assert_eq!(*size, mark.0, "{path}");
            self.marks.insert(path, mark);
        }
        Ok(())
    }
    fn seal(&mut self, folder: &TreePath) -> Result<(), SinkError> {
        self.folder.seal(folder)
    }
    fn fault(&mut self, path: &TreePath, why: String) {
        self.folder.fault(path, why);
    }
    fn earlier(&mut self, path: &TreePath) -> Option<Earlier> {
        let (size, seconds, inode) = *self.before.get(path)?;
        let mtime = FileTime { seconds, nanos: 0 };
        Some(Earlier { size, meta: Meta { mode: 0o600, mtime, inode, ..Meta::default() } })
    }
    fn earlier_content(&mut self, path: &TreePath, offset: u64, length: usize) -> Option<Vec<u8>> {
        self.before.get(path)?;
        let file = fs_err::File::open(self.before_root.join(path.to_string())).ok()?;
        let size = file.metadata().ok()?.len();
        let length = usize::try_from(size.saturating_sub(offset)).unwrap().min(length);
        let mut bytes = vec![0; length];
        std::os::unix::fs::FileExt::read_exact_at(file.file(), &mut bytes, offset).ok()?;
        Some(bytes)
    }
}

fn read(config: DicomConfig, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
    DicomSource::new(config).read(sink, control)
}

fn origin(report: &Report) -> DicomOrigin {
    let Origin::Dicom(origin) = &report.origin else { panic!() };
    origin.clone()
}

#[test]
fn an_archive_comes_study_by_study_without_an_outage_and_another_one_gives_the_same_instances() {
    let pacs = Orthanc::start();
    for study in 1..=6 {
        for series in 1..=2 {
            for instance in 1..=5 {
                pacs.store(&dicom(study, series, instance, 20_000));
            }
        }
    }
    // One that is too large to be held in memory.
    pacs.store(&dicom(7, 1, 1, 12 << 20));
    let temp = tempfile::tempdir().unwrap();

    // While it is copied it answers everybody and takes new pictures.
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let slowest = AtomicU64::new(0);
    let mut first = Strict::new(&temp.path().join("a"), None);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let begun = SystemClock.boot();
                let n = asked.fetch_add(1, Ordering::AcqRel);
                pacs.store(&dicom(90, 1, n, 2000));
                assert!(pacs.curl(&["/patients"]).is_some(), "it answers");
                let took = u64::try_from(SystemClock.boot().saturating_sub(begun).as_millis()).unwrap();
                slowest.fetch_max(took, Ordering::AcqRel);
            }
        });
        common::until("the load", || asked.load(Ordering::Acquire) > 2);
        // It stands still in its middle until pictures have come beside it.
        let goes = Arc::clone(&asked);
        let middle = common::once_after(2 << 20, move || {
            let before = goes.load(Ordering::Acquire);
            common::until("pictures beside it", || goes.load(Ordering::Acquire) > before + 1);
        });
        let slow = Control { rate: Some(8 << 20), progress: middle, ..control() };
        let report = read(pacs.config(), &mut first, &slow);
        stop.store(true, Ordering::Release);
        report
    })
    .unwrap();
    println!(
        "{} studies, {} instances, {:.1} MB in {:.2} s; {} uploads beside it, the slowest with a question {} ms",
        origin(&report).studies,
        origin(&report).instances,
        report.bytes as f64 / 1e6,
        report.seconds,
        asked.load(Ordering::Acquire),
        slowest.load(Ordering::Acquire)
    );
    assert_eq!(report.fault_count, 0, "{:?}", report.faults);
    assert!(origin(&report).changes_after > origin(&report).changes_before, "it took pictures meanwhile");

    // What came meanwhile comes now; the rest is kept unread.
    let mut second = Strict::new(&temp.path().join("b"), Some(&first));
    let report = read(pacs.config(), &mut second, &control()).unwrap();
    assert!(second.put.iter().all(|path| path.starts_with("studies/2.25.90/")), "{:?}", second.put);
    assert_eq!((origin(&report).studies, origin(&report).instances), (8, 61 + asked.load(Ordering::Acquire)));
    let mut third = Strict::new(&temp.path().join("c"), Some(&second));
    let report = read(pacs.config(), &mut third, &control()).unwrap();
    assert_eq!((report.files, report.kept, third.put.len()), (8, 8, 0), "nothing changed, nothing is read");

    // A new picture in one study and a deletion in another, which moves no "last update".
    pacs.store(&dicom(2, 1, 99, 3000));
    pacs.delete("2.25.3.1.1");
    let mut fourth = Strict::new(&temp.path().join("d"), Some(&third));
    read(pacs.config(), &mut fourth, &control()).unwrap();
    assert_eq!(fourth.put, ["studies/2.25.2/part-000.tar", "studies/2.25.3/part-000.tar"]);

    // Everything together is the archive: another, empty one gets it back.
    let whole = Strict::new(&temp.path().join("e"), None);
    let mut whole = whole;
    read(pacs.config(), &mut whole, &control()).unwrap();
    let fresh = Orthanc::start();
    let mut given = 0;
    for path in whole.marks.keys() {
        let mut bundle = fs_err::File::open(whole.folder.path(path)).unwrap();
        let back = give_back(&mut bundle, &fresh.config(), &control()).unwrap();
        assert!(back.wrong.is_empty(), "{back:?}");
        given += back.identical;
    }
    assert_eq!(given, 61 + asked.load(Ordering::Acquire));
    let (ours, theirs) = (fresh.instances(), pacs.instances());
    assert!(ours.len() as u64 == given && ours == theirs, "the same instances by SOP UID and SHA-256");

    // A bundle that was changed is told, and so is one that is cut.
    let path = whole.folder.root.join("studies/2.25.1/part-000.tar");
    let mut bytes = fs_err::read(&path).unwrap();
    let middle = bytes.windows(4).position(|four| four == b"DICM").unwrap() + 9000;
    bytes[middle] ^= 1;
    let back = give_back(&mut bytes.as_slice(), &Orthanc::start().config(), &control()).unwrap();
    assert_eq!(back.wrong.len(), 1, "{back:?}");
    let error = give_back(&mut &bytes[..middle], &fresh.config(), &control()).unwrap_err();
    assert_eq!(error.code(), "source.manifest");
}

#[test]
fn a_picture_of_any_size_that_is_changed_under_its_uid_is_told_and_kept() {
    let pacs =
        Orthanc::with(&serde_json::json!({ "OverwriteInstances": true, "MaximumStorageCacheSize": 0 }));
    let mut pixels = vec![5; 257 << 20];
    pacs.store(&made(1, 1, 1, &pixels, "20260101"));
    let temp = tempfile::tempdir().unwrap();
    let mut first = Strict::new(&temp.path().join("a"), None);
    assert_eq!(read(pacs.config(), &mut first, &control()).unwrap().fault_count, 0);
    pixels[200 << 20] = 6;
    pacs.store(&made(1, 1, 1, &pixels, "20260101"));
    let mut second = Strict::new(&temp.path().join("b"), Some(&first));
    let report = read(pacs.config(), &mut second, &control()).unwrap();
    let replaced = origin(&report).replaced;
    assert_eq!((report.fault_count, replaced.len()), (0, 1), "{report:?}");
    // Both digests are what another program says of the two files; both files are in the new restore point.
    let list = |root: &Path| -> Vec<(String, String)> {
        let tar = root.join("studies/2.25.1/part-000.tar");
        let (out, parts) = (temp.path().join("out"), root.join("studies/2.25.1/part-001.tar"));
        let _ = fs_err::remove_dir_all(&out);
        fs_err::create_dir(&out).unwrap();
        for tar in [tar, parts].iter().filter(|tar| tar.exists()) {
            assert!(Command::new("tar").arg("xf").arg(tar).arg("-C").arg(&out).status().unwrap().success());
        }
        let all =
            common::digests(&out).into_iter().map(|(name, sum)| (String::from_utf8(name).unwrap(), sum));
        all.filter(|(name, _)| name.starts_with("./2.25.")).collect()
    };
    let (before, after) = (list(&first.folder.root), list(&second.folder.root));
    let sum = |of: &[(String, String)], was: bool| {
        of.iter().find(|(name, _)| name.contains(".was-") == was).unwrap().1.clone()
    };
    assert_eq!((before.len(), after.len()), (1, 2));
    assert_eq!(sum(&after, true), sum(&before, false));
    assert_eq!((&replaced[0].was, &replaced[0].now), (&sum(&before, false), &sum(&after, false)));
}

#[test]
fn an_archives_own_answers_before_and_during_a_copy_are_recorded() {
    let pacs = Orthanc::start();
    for instance in 1..=24 {
        pacs.store(&dicom(4, 1, instance, 1 << 20));
    }
    let source = GentleSource::new(GentleConfig {
        limits: Vec::new(),
        zone: None,
        probe: Some(Probe::Http {
            url: format!("http://127.0.0.1:{}/system", pacs.port),
            bounds: ProbeBounds {
                every: Span(std::time::Duration::from_millis(20)),
                ..ProbeBounds::default()
            },
        }),
        source: Box::new(Config::Dicom(pacs.config())),
    });
    let temp = tempfile::tempdir().unwrap();
    let slow = Control { rate: Some(16 << 20), ..control() };
    let felt = source.read(&mut Folder::new(temp.path()), &slow).unwrap().felt.unwrap();
    println!("{felt:?}");
    assert!(
        felt.asked > 2 && felt.before_p50_ms > 0.0 && felt.during_p99_ms >= felt.during_p50_ms,
        "{felt:?}"
    );
}

#[test]
fn a_bundle_opens_with_tar_and_dcmtk_alone() {
    let pacs = Orthanc::start();
    for instance in 1..=3 {
        pacs.store(&dicom(5, 1, instance, 9000));
    }
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(&temp.path().join("a"));
    read(pacs.config(), &mut sink, &control()).unwrap();
    let bundle = sink.root.join("studies/2.25.5/part-000.tar");
    let out = Command::new("tar").arg("xf").arg(&bundle).arg("-C").arg(temp.path()).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let table: serde_json::Value =
        serde_json::from_slice(&fs_err::read(temp.path().join("offsets.json")).unwrap()).unwrap();
    let sums: serde_json::Value =
        serde_json::from_slice(&fs_err::read(temp.path().join("digests.json")).unwrap()).unwrap();
    let whole = fs_err::read(&bundle).unwrap();
    let table_end =
        512 + fs_err::metadata(temp.path().join("offsets.json")).unwrap().len().next_multiple_of(512);
    let truth = common::digests(&temp.path().join("2.25.5.1"));
    for (n, row) in table["instances"].as_array().unwrap().iter().enumerate() {
        let sop = row["sop"].as_str().unwrap();
        let name = format!("2.25.5.1/{sop}.dcm");
        let file = fs_err::read(temp.path().join(&name)).unwrap();
        let at = usize::try_from(table_end + row["offset"].as_u64().unwrap()).unwrap();
        assert!(file == whole[at..at + file.len()], "the table leads to one instance without the rest");
        assert_eq!(
            sums["sha256"][n].as_str(),
            truth.get(format!("./{sop}.dcm").as_bytes()).map(String::as_str)
        );
        let dump =
            Command::new("dcmdump").arg("+P").arg("0008,0018").arg(temp.path().join(&name)).output().unwrap();
        assert!(String::from_utf8_lossy(&dump.stdout).contains(sop));
    }
    assert_eq!(truth.len(), 3);
}

#[test]
fn a_wrong_login_another_archive_and_one_that_dies_are_never_a_copy() {
    let mut pacs = Orthanc::start();
    for study in 1..=3 {
        for instance in 1..=4 {
            pacs.store(&dicom(study, 1, instance, 1 << 20));
        }
    }
    let temp = tempfile::tempdir().unwrap();
    let fails = |config: DicomConfig, control: &Control| {
        let mut sink = Folder::new(&temp.path().join("x"));
        read(config, &mut sink, control).unwrap_err()
    };
    let good = pacs.config();
    let wrong = secret(pacs.temp.path(), "wrong", "wrong");
    let error = fails(DicomConfig { password_file: Some(wrong), ..good.clone() }, &control());
    assert_eq!(error.code(), "source.wrong-password");
    let error = fails(DicomConfig { port: common::free_port(), ..good.clone() }, &control());
    assert_eq!(error.code(), "source.unreachable");
    let expect = DicomExpect { name: Some("OTHER".into()) };
    let error = fails(DicomConfig { expect, ..good.clone() }, &control());
    assert_eq!(error.code(), "source.wrong-instance");
    let group = pacs.group();
    let dying = Control {
        rate: Some(4 << 20),
        progress: once_after(4 << 20, move || kill_process_group(group, Signal::KILL).unwrap()),
        ..control()
    };
    let error = fails(good.clone(), &dying);
    assert!(matches!(error.code(), "source.unreachable" | "source.connection-lost"), "{error}");
    pacs.serve();
    let report = read(good, &mut Folder::new(&temp.path().join("y")), &control()).unwrap();
    assert_eq!((report.files, report.fault_count), (3, 0));
}
