//! Another backup product's folder on a real Samba. The "product" is a shell script of ours that writes files
//! of the same names and in the same order as Veeam does: chain files first, metadata last.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{fmt::Write as _, path::Path, time::Duration};

use common::{Folder, control, digests, samba::Samba};
use kuramori_model::{
    clock::{Random, SeededRandom},
    fault::Fault,
    foreign::JobState,
    tree::{Entry, Sink, SinkError, TreePath},
};
use kuramori_source::{
    Error, Report, Source,
    config::{ForeignConfig, MarkerConfig, Product, Pull, Span},
    foreign::ForeignSource,
    report::{ForeignOrigin, Origin},
};

fn config(samba: &Samba, product: Product, pattern: &str) -> ForeignConfig {
    let mut share = samba.config();
    let marker = MarkerConfig {
        settle: Span(Duration::from_millis(300)),
        names_files: true,
        ..MarkerConfig::new(pattern)
    };
    share.marker = Some(marker);
    ForeignConfig {
        server: "127.0.0.1".into(),
        product,
        share: Some(share),
        pull: Pull::Folder,
        result: None,
        hear: Vec::new(),
    }
}

fn read(config: &ForeignConfig, sink: &mut dyn Sink) -> Result<Report, Error> {
    ForeignSource::new(config.clone()).read(sink, &control())
}

fn origin(report: &Report) -> ForeignOrigin {
    let Origin::Foreign(origin) = &report.origin else { panic!("{report:?}") };
    origin.clone()
}

/// One night: a full file, increments, and the metadata that names them all.
fn night(folder: &Path, seed: u64, increments: u64) {
    let random = SeededRandom::new(seed);
    let mut names = vec!["病棟システム.vbk".to_owned()];
    names.extend((0..increments).map(|n| format!("病棟システム2026-11-{:02}T010000.vib", n + 1)));
    let mut xml = String::from("<?xml version=\"1.0\"?><BackupMeta><BackupMetaInfo><Storages>");
    for name in &names {
        let path = folder.join(name);
        if !path.exists() {
            let mut content = vec![0; 300_000];
            random.fill(&mut content);
            fs_err::write(path, content).unwrap();
        }
        let _ = write!(xml, "<Storage FilePath=\"D:\\Backup\\{name}\" State=\"0\"/>");
    }
    xml += "</Storages></BackupMetaInfo></BackupMeta>";
    fs_err::write(folder.join("病棟システム.vbm"), xml).unwrap();
}

#[test]
fn a_backup_set_is_taken_only_when_every_file_that_its_metadata_names_is_there() {
    let samba = Samba::start();
    println!("seed 61");
    night(&samba.dump(), 61, 2);
    let config = config(&samba, Product::Veeam, "*.vbm");
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(&temp.path().join("whole"));
    let report = read(&config, &mut sink).unwrap();
    assert_eq!((report.files, report.fault_count), (4, 0), "{:?}", report.faults);
    assert_eq!(digests(&samba.dump()), digests(&sink.root));
    let seen = origin(&report);
    assert_eq!((seen.product.as_str(), seen.pulled), ("veeam", true));
    assert_eq!(seen.share.marker.as_ref().unwrap().named, Some(3));

    let refused_by = |config: &ForeignConfig, name: &str, code: &str| {
        let mut sink = Folder::new(&temp.path().join(name));
        let error = read(config, &mut sink).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(sink.put.is_empty(), "nothing of it was handed on");
        error.to_string()
    };
    let refused = |name: &str, code: &str| refused_by(&config, name, code);
    // An increment that the metadata names is gone.
    let increment = samba.dump().join("病棟システム2026-11-02T010000.vib");
    let aside = temp.path().join("aside");
    fs_err::rename(&increment, &aside).unwrap();
    assert!(refused("gone", "source.set-incomplete").contains("2026-11-02"));
    fs_err::copy(&aside, &increment).unwrap();
    // It is back, but newer than the metadata: the product is still at work.
    common::samba::touch(&increment, "now + 30 seconds");
    refused("newer", "source.marker-early");
    common::samba::touch(&increment, "1 hour ago");
    read(&config, &mut Folder::new(&temp.path().join("again"))).unwrap();
    // A file that grows between two looks, as in a merge.
    let growing = samba.dump().join("病棟システム.vbk");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (growing, stop) = (growing.clone(), stop.clone());
        move || {
            use std::io::Write;
            while !stop.load(std::sync::atomic::Ordering::Acquire) {
                fs_err::OpenOptions::new().append(true).open(&growing).unwrap().write_all(b"merge").unwrap();
                common::samba::touch(&growing, "1 hour ago");
            }
        }
    });
    let size = || growing.metadata().unwrap().len();
    let before = size();
    common::until("the merge", || size() > before);
    // Far enough apart for a writer that waits for its turn on a busy machine.
    let mut looks = config.clone();
    looks.share.as_mut().unwrap().marker.as_mut().unwrap().settle = Span(Duration::from_millis(1500));
    refused_by(&looks, "merging", "source.marker-early");
    stop.store(true, std::sync::atomic::Ordering::Release);
    writer.join().unwrap();
}

/// Takes nothing and fails the test if it is given anything.
#[derive(Debug)]
struct Untouched;

impl Sink for Untouched {
    fn known(&mut self, entry: &Entry) -> bool {
        panic!("asked about {entry:?}")
    }
    fn keep(&mut self, entry: Entry) -> Result<(), SinkError> {
        panic!("given {entry:?}")
    }
    fn put(&mut self, entry: Entry, _: &mut dyn std::io::Read) -> Result<(), SinkError> {
        panic!("given {entry:?}")
    }
    fn seal(&mut self, folder: &TreePath) -> Result<(), SinkError> {
        panic!("sealed {folder}")
    }
    fn fault(&mut self, path: &TreePath, why: String) {
        panic!("{path}: {why}")
    }
}

/// Runs the shipped post-job script.
fn script(arguments: &[&str]) {
    let script = format!("{}/../../packaging/scripts/kuramori-job.sh", env!("CARGO_MANIFEST_DIR"));
    let done = std::process::Command::new("sh").arg(script).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_post_job_scripts_result_file_vouches_for_sizes_and_its_failure_is_the_runs() {
    let samba = Samba::start();
    let (folder, result) = (samba.dump(), samba.dump().join("kuramori-result.json"));
    for (name, size) in [("S0000000001.d2d", 100_000), ("外来 A & 'B'.d2d", 5)] {
        fs_err::write(folder.join(name), vec![7; size]).unwrap();
    }
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    let post = |state: &str, message: &str| {
        let (folder, result) = (at(&folder), at(&result));
        script(&[
            "post",
            state,
            "--system",
            "clinic",
            "--product",
            "arcserve",
            "--job",
            "夜間\t\"フル\"",
            "--folder",
            &folder,
            "--match",
            "*.d2d",
            "--message",
            message,
            "--result",
            &result,
        ]);
    };
    post("success", "");
    let config = config(&samba, Product::Arcserve, "kuramori-result.json");
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(&temp.path().join("a"));
    let report = read(&config, &mut sink).unwrap();
    assert_eq!(digests(&folder), digests(&sink.root));
    let seen = origin(&report);
    let said = seen.result.unwrap();
    assert_eq!((said.state, said.bytes, said.files.len()), (JobState::Success, Some(100_005), 2));
    assert_eq!(said.job, "夜間 \"フル\"");
    assert_eq!(seen.share.marker.unwrap().named, Some(2));

    // Shorter than the product said: a cut copy.
    let file = folder.join("S0000000001.d2d");
    let when = file.metadata().unwrap().modified().unwrap();
    fs_err::write(&file, vec![7; 99_999]).unwrap();
    fs_err::File::options().write(true).open(&file).unwrap().into_parts().0.set_modified(when).unwrap();
    let error = read(&config, &mut Folder::new(&temp.path().join("b"))).unwrap_err();
    assert_eq!(error.code(), "source.set-incomplete", "{error}");
    assert!(error.to_string().contains("99999 bytes instead of 100000"), "{error}");

    // Only the result: nothing goes into the sink.
    let only = ForeignConfig { pull: Pull::Result, ..config.clone() };
    let report = read(&only, &mut Untouched).unwrap();
    assert!(!origin(&report).pulled && origin(&report).result.is_some());
    post("failed", "保存先が満杯");
    for config in [&only, &config] {
        let error = read(config, &mut Untouched).unwrap_err();
        assert_eq!(error.code(), "source.foreign-failed");
        assert!(error.to_string().contains("保存先が満杯"), "{error}");
    }
    fs_err::write(&result, "{}").unwrap();
    assert_eq!(read(&only, &mut Untouched).unwrap_err().code(), "source.bad-result");
    fs_err::remove_file(&result).unwrap();
    assert_eq!(read(&only, &mut Untouched).unwrap_err().code(), "source.marker-missing");
}
