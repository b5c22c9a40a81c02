//! Archives of other makers: by C-FIND and C-GET, and over DICOMweb.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use jiff::Timestamp;
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::Fault,
};
use kuramori_source::{
    Cancel, Control,
    config::{DicomConfig, DimseNames, Span},
    dicom::restore::{GivenBack, give_back},
};
use rustix::process::{Signal, kill_process_group};

use crate::{
    Strict,
    common::{
        self, Folder, control,
        dcmqr::Archive,
        once_after,
        orthanc::{Orthanc, changed, dicom},
    },
    liar::{self, Lies},
    origin, read,
};

/// The wall clock of a later day.
#[derive(Debug)]
struct Later(i64);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        SystemClock.now() + jiff::SignedDuration::from_hours(self.0 * 24)
    }
    fn boot(&self) -> std::time::Duration {
        SystemClock.boot()
    }
    fn sleep(&self, time: std::time::Duration) {
        SystemClock.sleep(time);
    }
}

fn later(days: i64) -> Control {
    Control { clock: Arc::new(Later(days)), ..control() }
}

/// What follows the head of a file.
fn set_of(file: &[u8]) -> &[u8] {
    let length = u32::from_le_bytes(file[140..144].try_into().unwrap());
    &file[144 + usize::try_from(length).unwrap()..]
}

/// The data sets of all bundles below a folder, by `tar`: name of the member with the data set.
fn sets(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let out = Command::new("find").arg(root).args(["-name", "part-*.tar"]).output().unwrap();
    for bundle in String::from_utf8(out.stdout).unwrap().lines() {
        let temp = tempfile::tempdir().unwrap();
        let out = Command::new("tar").arg("xf").arg(bundle).arg("-C").arg(temp.path()).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        for name in common::digests(temp.path()).into_keys() {
            let name = String::from_utf8(name).unwrap();
            if Path::new(&name).extension().is_some_and(|extension| extension == "dcm") {
                let file = fs_err::read(temp.path().join(&name)).unwrap();
                found.insert(name.rsplit('/').next().unwrap().to_owned(), set_of(&file).to_vec());
            }
        }
    }
    found
}

fn all_back(from: &Strict, to: &DicomConfig) -> Vec<GivenBack> {
    let bundles = from.marks.keys().map(|path| from.folder.path(path));
    bundles.map(|path| give_back(&mut fs_err::File::open(path).unwrap(), to, &control()).unwrap()).collect()
}

#[test]
fn any_archive_comes_by_find_and_get_and_another_one_takes_it_back() {
    let mut pacs = Archive::start();
    let mut truth = BTreeMap::new();
    let mut files = Vec::new();
    for study in 1..=4 {
        for series in 1..=2 {
            for instance in 1..=3 {
                let file = dicom(study, series, instance, 20_000);
                truth.insert(format!("2.25.{study}.{series}.{instance}.dcm"), set_of(&file).to_vec());
                files.push(file);
            }
        }
    }
    pacs.store(&files);
    let temp = tempfile::tempdir().unwrap();
    let mut first = Strict::new(&temp.path().join("a"), None);
    let report = read(pacs.config(), &mut first, &control()).unwrap();
    assert_eq!(
        (report.fault_count, origin(&report).studies, origin(&report).instances),
        (0, 4, 24),
        "{report:?}"
    );
    assert!(sets(&first.folder.root) == truth, "every data set as it was stored, to the byte");

    // The second run asks and reads nothing; one picture more, and one study is read.
    let mut second = Strict::new(&temp.path().join("b"), Some(&first));
    let report = read(pacs.config(), &mut second, &control()).unwrap();
    assert_eq!((report.files, report.kept, second.put.len()), (4, 4, 0), "{report:?}");
    pacs.store(&[dicom(2, 1, 9, 20_000)]);
    let mut third = Strict::new(&temp.path().join("c"), Some(&second));
    read(pacs.config(), &mut third, &control()).unwrap();
    assert_eq!(third.put, ["studies/2.25.2/part-000.tar"]);

    // A picture is changed under its name. Its list shows nothing; when the study is read again, both are there.
    let path = pacs.file_of("2.25.3.1.2");
    let mut stored = fs_err::read(&path).unwrap();
    let end = stored.len() - 100;
    stored[end] ^= 0xFF;
    fs_err::write(&path, &stored).unwrap();
    let mut fourth = Strict::new(&temp.path().join("d"), Some(&third));
    let report = read(pacs.config(), &mut fourth, &later(1)).unwrap();
    assert_eq!((report.kept, origin(&report).replaced_count), (4, 0), "not due yet");
    let mut fifth = Strict::new(&temp.path().join("e"), Some(&fourth));
    let report = read(pacs.config(), &mut fifth, &later(31)).unwrap();
    let replaced = origin(&report).replaced;
    assert_eq!((fifth.put.len(), replaced.len()), (4, 1), "{report:?}");
    assert_eq!((replaced[0].study.as_str(), replaced[0].sop.as_str()), ("2.25.3", "2.25.3.1.2"));
    let both = sets(&fifth.folder.root);
    let old = both.iter().find(|(name, _)| name.starts_with("2.25.3.1.2.was-")).unwrap();
    assert!(*old.1 == truth["2.25.3.1.2.dcm"] && both["2.25.3.1.2.dcm"] == set_of(&stored), "both are kept");
    let mut sixth = Strict::new(&temp.path().join("f"), Some(&fifth));
    let report = read(pacs.config(), &mut sixth, &later(62)).unwrap();
    assert_eq!((sixth.put.len(), origin(&report).replaced_count), (4, 0), "told once");
    assert!(sets(&sixth.folder.root) == both, "and kept from then on");

    // Another, empty one takes all back; what it has already is found, what it has instead is not overwritten.
    let fresh = Archive::start();
    fresh.store(&[dicom(1, 1, 1, 20_000), changed(1, 1, 2, 20_000, 7)]);
    let back = all_back(&sixth, &fresh.config());
    let sum = |of: fn(&GivenBack) -> u64| back.iter().map(of).sum::<u64>();
    assert_eq!((sum(|b| b.identical), sum(|b| b.already), sum(|b| b.older)), (24, 1, 1), "{back:?}");
    let wrong: Vec<_> = back.iter().flat_map(|back| &back.wrong).collect();
    assert!(wrong.len() == 1 && wrong[0].0 == "2.25.1.1.2", "{wrong:?}");
    let mut again = Strict::new(&temp.path().join("g"), None);
    read(fresh.config(), &mut again, &control()).unwrap();
    let mut expected: BTreeMap<_, _> =
        both.clone().into_iter().filter(|(name, _)| !name.contains(".was-")).collect();
    expected.insert("2.25.1.1.2.dcm".into(), set_of(&changed(1, 1, 2, 20_000, 7)).to_vec());
    assert!(sets(&again.folder.root) == expected);

    // It lists what it cannot give: what came is there, and the restore point is not whole.
    let lost = pacs.file_of("2.25.4.2.3");
    let content = fs_err::read(&lost).unwrap();
    fs_err::remove_file(&lost).unwrap();
    let mut lied_to = Strict::new(&temp.path().join("h"), None);
    let report = read(pacs.config(), &mut lied_to, &control()).unwrap();
    assert_eq!((report.fault_count, lied_to.folder.faults.len()), (1, 1), "{report:?}");
    assert!(report.faults[0].why.contains("2.25.4.2.3"), "{report:?}");
    assert_eq!(sets(&lied_to.folder.root).len(), 24);
    // What the restore point before had of it stays, and is asked for until it is there again.
    let mut held = Strict::new(&temp.path().join("i"), Some(&sixth));
    let report = read(pacs.config(), &mut held, &later(93)).unwrap();
    assert_eq!((report.fault_count, held.put.len()), (1, 4), "{report:?}");
    let mut still = Strict::new(&temp.path().join("j"), Some(&held));
    let report = read(pacs.config(), &mut still, &later(93)).unwrap();
    assert_eq!((report.fault_count, report.kept, still.put.len()), (1, 3, 1), "{report:?}");
    assert!(report.faults[0].why.contains("1 stay"), "{report:?}");
    assert!(sets(&still.folder.root) == both, "nothing was lost");
    fs_err::write(&lost, content).unwrap();
    let mut healed = Strict::new(&temp.path().join("k"), Some(&still));
    let report = read(pacs.config(), &mut healed, &later(93)).unwrap();
    assert_eq!(
        (report.fault_count, healed.put.len(), origin(&report).replaced_count),
        (0, 1, 0),
        "{report:?}"
    );
    let mut whole = Strict::new(&temp.path().join("l"), Some(&healed));
    let report = read(pacs.config(), &mut whole, &later(93)).unwrap();
    assert_eq!((report.fault_count, report.kept), (0, 4), "{report:?}");

    // Names that it does not know, and nobody at all.
    let fails =
        |config: DicomConfig| read(config, &mut Folder::new(&temp.path().join("x")), &control()).unwrap_err();
    let titles = DimseNames { called: "OTHER".into(), calling: "KURAMORI".into() };
    let error = fails(DicomConfig { titles: Some(titles), ..pacs.config() });
    assert_eq!(error.code(), "source.login-refused", "{error}");
    println!("{error}");
    let error = fails(DicomConfig { port: common::free_port(), ..pacs.config() });
    assert_eq!(error.code(), "source.unreachable");
    pacs.kill();
}

#[test]
fn an_archive_that_dies_in_the_middle_of_a_study_is_never_a_copy() {
    let mut pacs = Archive::start();
    let files: Vec<Vec<u8>> = (1..=12).map(|n| dicom(1 + n / 4, 1, n, 1 << 20)).collect();
    pacs.store(&files);
    let group = pacs.group();
    let temp = tempfile::tempdir().unwrap();
    let dying = Control {
        progress: once_after(2 << 20, move || kill_process_group(group, Signal::KILL).unwrap()),
        ..control()
    };
    let error = read(pacs.config(), &mut Folder::new(&temp.path().join("a")), &dying).unwrap_err();
    assert!(matches!(error.code(), "source.unreachable" | "source.connection-lost"), "{error}");
    pacs.serve();
    let mut sink = Strict::new(&temp.path().join("b"), None);
    let report = read(pacs.config(), &mut sink, &control()).unwrap();
    assert_eq!((origin(&report).instances, report.fault_count), (12, 0));
    let limited = Control { rate: Some(4 << 20), cancel: Cancel::default(), ..control() };
    let stop = limited.cancel.clone();
    let limited = Control { progress: once_after(1 << 20, move || stop.cancel()), ..limited };
    let error = read(pacs.config(), &mut Folder::new(&temp.path().join("c")), &limited).unwrap_err();
    assert_eq!(error.code(), "source.cancelled");
}

#[test]
fn orthanc_comes_over_dicomweb_and_by_get_although_it_names_only_a_few_studies_at_once() {
    let pacs = Orthanc::open();
    for study in 1..=17 {
        pacs.store(&dicom(study, 1, 1, 3000));
    }
    pacs.store(&dicom(1, 2, 5, 12 << 20));
    let truth = pacs.instances();
    let temp = tempfile::tempdir().unwrap();

    let mut first = Strict::new(&temp.path().join("a"), None);
    let report = read(pacs.web(), &mut first, &control()).unwrap();
    assert_eq!((report.fault_count, origin(&report).instances), (0, 18), "{report:?}");
    let mut second = Strict::new(&temp.path().join("b"), Some(&first));
    assert_eq!(read(pacs.web(), &mut second, &control()).unwrap().kept, 17);
    let fresh = Orthanc::open();
    let back = all_back(&second, &fresh.web());
    assert!(back.iter().all(|back| back.wrong.is_empty() && back.already == 0), "{back:?}");
    assert!(fresh.instances() == truth, "over STOW-RS the same files, by SOP UID and SHA-256");
    assert!(all_back(&second, &fresh.web()).iter().all(|back| back.identical == back.already));

    // Seven studies in one answer are its limit.
    let mut third = Strict::new(&temp.path().join("c"), None);
    let report = read(pacs.dimse(), &mut third, &control()).unwrap();
    assert_eq!(
        (report.fault_count, origin(&report).studies, origin(&report).instances),
        (0, 17, 18),
        "{report:?}"
    );
    assert!(sets(&third.folder.root) == sets(&first.folder.root), "the same data sets by both ways");
    let fresh = Orthanc::open();
    let back = all_back(&third, &fresh.dimse());
    assert!(back.iter().all(|back| back.wrong.is_empty()), "{back:?}");

    // Changed under its name: Orthanc's own interface shows it at once, DICOMweb when it is read again.
    let mut own = Strict::new(&temp.path().join("d"), None);
    read(pacs.config(), &mut own, &control()).unwrap();
    pacs.store(&changed(5, 1, 1, 3000, 9));
    let mut seen = Strict::new(&temp.path().join("e"), Some(&own));
    let report = read(pacs.config(), &mut seen, &control()).unwrap();
    assert_eq!((seen.put.len(), origin(&report).replaced_count), (1, 1), "{report:?}");
    let both = sets(&seen.folder.root);
    assert!(
        both.keys().any(|name| name.starts_with("2.25.5.1.1.was-")) && both.len() == 19,
        "{:?}",
        both.keys()
    );
    let mut still = Strict::new(&temp.path().join("f"), Some(&seen));
    let report = read(pacs.config(), &mut still, &control()).unwrap();
    assert_eq!((still.put.len(), origin(&report).replaced_count, report.kept), (0, 0, 17), "{report:?}");
    // A file that the archive lost costs one picture, not its study and not the run; the old one stays.
    let id = pacs.store(&dicom(6, 1, 2, 3000));
    let mut whole = Strict::new(&temp.path().join("own-1"), Some(&still));
    assert_eq!(read(pacs.config(), &mut whole, &control()).unwrap().fault_count, 0);
    pacs.lose(&id);
    pacs.store(&dicom(6, 1, 3, 3000));
    for (number, before, names) in [(2, None, 19), (3, Some(&whole), 21)] {
        let mut lost = Strict::new(&temp.path().join(format!("own-{number}")), before);
        let report = read(pacs.config(), &mut lost, &control()).unwrap();
        let why = &report.faults[0].why;
        assert!(report.fault_count == 1 && why.contains("2.25.6.1.2"), "{report:?}");
        assert_eq!((sets(&lost.folder.root).len(), why.contains("stays")), (names, before.is_some()));
        if before.is_some() {
            let mut again = Strict::new(&temp.path().join("own-again"), Some(&lost));
            let report = read(pacs.config(), &mut again, &control()).unwrap();
            assert_eq!((report.fault_count, report.kept), (1, 17), "asked for in each run: {report:?}");
            pacs.find(&id);
            let mut found = Strict::new(&temp.path().join("own-4"), Some(&again));
            let report = read(pacs.config(), &mut found, &control()).unwrap();
            assert_eq!((report.fault_count, origin(&report).replaced_count), (0, 0), "{report:?}");
        }
    }
    for instance in [2, 3] {
        pacs.delete(&format!("2.25.6.1.{instance}"));
    }
    let mut web = Strict::new(&temp.path().join("g"), Some(&second));
    let config = DicomConfig { recheck: Span(std::time::Duration::from_hours(24)), ..pacs.web() };
    let report = read(config, &mut web, &later(2)).unwrap();
    assert_eq!((web.put.len(), origin(&report).replaced_count), (17, 1), "{report:?}");
    lists_that_are_cut_take_nothing_away_and_hide_nothing(&pacs, temp.path());
}

/// 17 studies come, and more are made here.
fn lists_that_are_cut_take_nothing_away_and_hide_nothing(pacs: &Orthanc, temp: &Path) {
    let through = |lies: Lies| DicomConfig { port: liar::between(pacs.dimse().port, lies), ..pacs.dimse() };
    // A series of six of which it names four, and no number that would show it.
    for instance in 1..=6 {
        pacs.store(&dicom(30, 1, instance, 3000));
    }
    let mut cut = Strict::new(&temp.join("cut"), None);
    let report = read(through(Lies { no_numbers: true, short: None }), &mut cut, &control()).unwrap();
    assert_eq!((report.fault_count, cut.folder.faults.len()), (1, 1), "{report:?}");
    let fault = &report.faults[0];
    assert!(
        fault.path.ends_with("2.25.30") && fault.why.contains("ended a list of pictures early"),
        "{fault:?}"
    );
    assert_eq!((origin(&report).studies, origin(&report).instances), (18, 18 + 4));

    // It has no room for the question (A700), or says that there is nothing: nobody deleted 18 studies.
    for (number, status) in [0xA700, 0].into_iter().enumerate() {
        let lies = Lies { no_numbers: true, short: Some(("SERIES", 0, status)) };
        let mut mute = Strict::new(&temp.join(format!("mute-{number}")), Some(&cut));
        let report = read(through(lies), &mut mute, &control()).unwrap();
        assert_eq!((report.fault_count, report.kept, mute.put.len()), (18, 18, 0), "{status:X}: {report:?}");
        assert_eq!(origin(&report).instances, 22);
    }
    // One that lists studies and no picture of any is not simply empty.
    let lies = Lies { no_numbers: true, short: Some(("SERIES", 0, 0)) };
    let report = read(through(lies), &mut Folder::new(&temp.join("fresh")), &control()).unwrap();
    assert_eq!((report.fault_count, report.files), (1, 0), "{report:?}");

    // A lost file makes it refuse the series' list (C000), which costs that study and no other. A study without a
    // date is found by no question for days: that it may be missing is said.
    let ids: Vec<String> = (1..=3).map(|instance| pacs.store(&dicom(31, 1, instance, 3000))).collect();
    pacs.lose(&ids[1]);
    let mut lost = Strict::new(&temp.join("lost"), Some(&cut));
    let unsure = DicomConfig { all_dated: false, ..pacs.dimse() };
    let report = read(unsure, &mut lost, &control()).unwrap();
    assert_eq!((report.fault_count, report.kept), (3, 18), "{report:?}");
    assert!(report.faults.iter().any(|fault| fault.why.contains("without a date")), "{report:?}");
    assert!(report.faults.iter().any(|fault| fault.path.ends_with("2.25.31")), "{report:?}");
}
