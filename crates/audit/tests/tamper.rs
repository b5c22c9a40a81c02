//! Every single change to a stored log is found.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{path::Path, sync::Arc};

use kuramori_audit::{Error, Finding, Log, SignedNote, Signer, Verifier, Witness, verify};
use kuramori_model::clock::{ManualClock, SystemClock};
use proptest::prelude::*;
use serde_json::json;

fn signer(name: &str, seed: u8) -> Signer {
    Signer::from_seed(name, &[seed; 32]).unwrap()
}

fn open(folder: &Path) -> Log {
    Log::open(folder, signer("kuramori/vault", 1), Arc::new(SystemClock)).unwrap()
}

fn key() -> Verifier {
    signer("kuramori/vault", 1).verifier()
}

fn witness_key() -> Verifier {
    signer("kuramori/server", 2).verifier()
}

/// A log of `entries` events, cosigned once at `at`; what the witness remembers.
fn filled(folder: &Path, entries: u64, at: u64) -> SignedNote {
    let witness = Witness::open(&folder.join("witness"), signer("kuramori/server", 2)).unwrap();
    let mut log = open(folder);
    let mut note = None;
    let mut written = 0;
    while log.size() < entries {
        log.append("window.opened", &json!({ "window": written, "why": "予定 <&>" })).unwrap();
        written += 1;
        if written == at {
            let cosigned = witness.cosign(&log.note(), &key(), None, &SystemClock).unwrap();
            log.keep_cosigned(&cosigned, &witness_key()).unwrap();
            note = Some(cosigned);
        }
    }
    note.unwrap()
}

fn findings(folder: &Path, elsewhere: &[SignedNote]) -> Vec<Finding> {
    verify(folder, &key(), &[witness_key()], elsewhere).unwrap().findings
}

#[test]
fn an_untouched_log_is_clean_and_goes_on_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let note = filled(folder.path(), 9, 4);
    let mut log = open(folder.path());
    assert_eq!(log.size(), 9);
    log.append("gate.closed", &json!(null)).unwrap();
    let verification = verify(folder.path(), &key(), &[witness_key()], &[note]).unwrap();
    assert_eq!(verification.findings, []);
    assert_eq!((verification.entries, verification.cosigned), (10, Some(4)));
    assert_eq!(Log::tail(folder.path(), 2).unwrap().last().unwrap().kind, "gate.closed");
    // Another key than the one that wrote it proves nothing.
    assert!(
        !verify(folder.path(), &signer("kuramori/vault", 9).verifier(), &[witness_key()], &[])
            .unwrap()
            .clean()
    );
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let second = Log::open(folder.path(), signer("kuramori/vault", 1), Arc::new(SystemClock));
    assert!(matches!(second, Err(Error::Busy(_))));
    drop(log);
    open(folder.path());
}

#[test]
fn a_flip_anywhere_is_found() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3, 2);
    let path = folder.path().join("log");
    let whole = fs_err::read(&path).unwrap();
    assert!(findings(folder.path(), &[]).is_empty());
    for at in (0..whole.len()).filter(|at| at % 3 == 0 || *at + 100 > whole.len()) {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        fs_err::write(&path, &changed).unwrap();
        assert!(!findings(folder.path(), &[]).is_empty(), "bit {} of byte {at}", at % 8);
    }
}

#[test]
fn a_cut_is_found_back_to_the_last_cosigned_checkpoint_even_if_the_notes_are_removed_too() {
    let folder = tempfile::tempdir().unwrap();
    let note = filled(folder.path(), 8, 5);
    let path = folder.path().join("log");
    let text = fs_err::read_to_string(&path).unwrap();
    for keep in 0..8 {
        let cut: String = text.split_inclusive('\n').take(keep).collect();
        fs_err::write(&path, cut).unwrap();
        let expected = if keep < 5 { vec![Finding::Truncated { cosigned: 5 }] } else { vec![] };
        let stored = findings(folder.path(), &[]);
        assert_eq!(stored, expected, "{keep} entries kept");
    }
    fs_err::remove_dir_all(folder.path().join("cosigned")).unwrap();
    fs_err::write(&path, text.split_inclusive('\n').take(4).collect::<String>()).unwrap();
    assert_eq!(findings(folder.path(), &[]), [], "what lies beside the log can go with it");
    assert_eq!(findings(folder.path(), &[note]), [Finding::Truncated { cosigned: 5 }]);
}

#[test]
fn whoever_owns_the_key_cannot_rewrite_what_was_cosigned() {
    let folder = tempfile::tempdir().unwrap();
    let note = filled(folder.path(), 8, 5);
    let other = tempfile::tempdir().unwrap();
    let mut log = open(other.path());
    for n in 0..12 {
        log.append("window.closed", &json!({ "window": n, "nothing": "happened" })).unwrap();
    }
    assert_eq!(findings(other.path(), &[]), []);
    assert_eq!(findings(other.path(), std::slice::from_ref(&note)), [Finding::Forked { cosigned: 5 }]);

    let witness = Witness::open(&folder.path().join("witness"), signer("kuramori/server", 2)).unwrap();
    let proof = log.prove(5).unwrap();
    let refused = witness.cosign(&log.note(), &key(), Some(&proof), &SystemClock);
    assert!(matches!(refused, Err(Error::Forked { seen: 5, .. })));
    // The true log goes on being cosigned, with a proof and not without.
    drop(log);
    let mut log = open(folder.path());
    assert!(witness.cosign(&log.note(), &key(), None, &SystemClock).is_err());
    let proof = log.prove(5).unwrap();
    let cosigned = witness.cosign(&log.note(), &key(), Some(&proof), &SystemClock).unwrap();
    log.keep_cosigned(&cosigned, &witness_key()).unwrap();
    assert_eq!(verify(folder.path(), &key(), &[witness_key()], &[note, cosigned]).unwrap().cosigned, Some(8));
}

#[test]
fn a_torn_last_line_is_set_aside_and_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5, 2);
    let path = folder.path().join("log");
    let whole = fs_err::read(&path).unwrap();
    let before = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for cut in (before..whole.len()).filter(|cut| cut % 23 == 0 || *cut == before || *cut + 3 > whole.len()) {
        fs_err::write(&path, &whole[..cut]).unwrap();
        let log = open(folder.path());
        let lost_only_the_newline = cut == whole.len() - 1;
        let expected = if cut == before { 4 } else { 5 };
        assert_eq!(log.size(), expected);
        let last = Log::tail(folder.path(), 1).unwrap().remove(0).kind;
        assert_eq!(last == "audit.torn-line-set-aside", cut != before && !lost_only_the_newline, "{cut}");
        assert_eq!(findings(folder.path(), &[]), []);
    }
}

#[test]
fn a_jumping_wall_clock_does_not_disturb_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let mut log = Log::open(folder.path(), signer("kuramori/vault", 1), clock.clone()).unwrap();
    log.append("a", &json!({})).unwrap();
    clock.jump("2016-01-01T00:00:00Z".parse().unwrap());
    log.append("b", &json!({})).unwrap();
    assert_eq!(findings(folder.path(), &[]), []);
    assert_eq!(Log::tail(folder.path(), 9).unwrap().iter().map(|e| e.number).collect::<Vec<_>>(), [0, 1]);
}

#[derive(Debug, Clone)]
enum Tamper {
    Flip(prop::sample::Index, u8),
    Delete(prop::sample::Index),
    Double(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, u8),
}

fn tampers() -> impl Strategy<Value = Tamper> {
    use prop::sample::Index;
    prop_oneof![
        (any::<Index>(), 1u8..).prop_map(|(at, with)| Tamper::Flip(at, with)),
        any::<Index>().prop_map(Tamper::Delete),
        any::<Index>().prop_map(Tamper::Double),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Tamper::Swap(a, b)),
        any::<Index>().prop_map(Tamper::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, with)| Tamper::Insert(at, with)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_single_tamper_is_found(entries in 2u64..12, tamper in tampers()) {
        let folder = tempfile::tempdir().unwrap();
        // Cosigned at the end, so that a cut anywhere counts.
        let note = filled(folder.path(), entries, entries);
        let path = folder.path().join("log");
        let mut bytes = fs_err::read(&path).unwrap();
        // The entry that records the cosignature itself came after it.
        let kept = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        bytes.truncate(kept);
        fs_err::write(&path, &bytes).unwrap();
        prop_assert_eq!(findings(folder.path(), std::slice::from_ref(&note)), vec![]);
        let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let changed = match tamper {
            Tamper::Flip(at, with) => { let at = at.index(bytes.len()); bytes[at] ^= with; bytes.clone() }
            Tamper::Cut(at) => { bytes.truncate(at.index(bytes.len())); bytes.clone() }
            Tamper::Insert(at, with) => { bytes.insert(at.index(bytes.len()), with); bytes.clone() }
            Tamper::Delete(at) => { lines.remove(at.index(lines.len())); lines.concat() }
            Tamper::Double(at) => { let at = at.index(lines.len()); lines.insert(at, lines[at].clone()); lines.concat() }
            Tamper::Swap(a, b) => { let (a, b) = (a.index(lines.len()), b.index(lines.len())); prop_assume!(a != b); lines.swap(a, b); lines.concat() }
        };
        fs_err::write(&path, changed).unwrap();
        prop_assert!(!findings(folder.path(), &[note]).is_empty());
    }
}

/// Tampers of one kind: tried and found.
#[derive(Debug, Default, serde::Serialize)]
struct Count {
    tried: u64,
    found: u64,
}

/// T10: each kind of tampering many times over, with a fixed seed; the figures go into the evidence.
#[test]
fn flips_deletions_cuts_reorders_rollbacks_and_forks_are_all_found_and_counted() {
    const SEED: u64 = 20_261_122;
    const ENTRIES: u64 = 40;
    let random = kuramori_model::clock::SeededRandom::new(SEED);
    let rounds = if std::env::var_os("KURAMORI_LONG").is_some() { 2000 } else { 150 };
    let folder = tempfile::tempdir().unwrap();
    let note = filled(folder.path(), ENTRIES, ENTRIES);
    let path = folder.path().join("log");
    let mut whole = fs_err::read(&path).unwrap();
    // The entry that records the cosignature itself came after it.
    whole.truncate(whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1);
    let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
    fs_err::write(&path, &whole).unwrap();
    assert_eq!(findings(folder.path(), std::slice::from_ref(&note)), [], "untouched is clean");
    let mut counts: std::collections::BTreeMap<&str, Count> = std::collections::BTreeMap::new();
    let below = |limit: usize| usize::try_from(random.below(limit as u64)).unwrap();
    for _ in 0..rounds {
        let mut flipped = whole.clone();
        flipped[below(whole.len())] ^= 1 << below(8);
        let mut deleted = lines.clone();
        deleted.remove(below(lines.len()));
        let mut reordered = lines.clone();
        let at = below(lines.len() - 1);
        reordered.swap(at, at + 1 + below(lines.len() - at - 1));
        let mut doubled = lines.clone();
        doubled.insert(below(lines.len()), lines[below(lines.len())]);
        for (kind, bytes) in [
            ("flip", flipped),
            ("deletion", deleted.concat()),
            ("truncation", whole[..below(whole.len())].to_vec()),
            ("reorder", reordered.concat()),
            ("insertion", doubled.concat()),
        ] {
            fs_err::write(&path, bytes).unwrap();
            let count = counts.entry(kind).or_default();
            count.tried += 1;
            count.found += u64::from(!findings(folder.path(), std::slice::from_ref(&note)).is_empty());
        }
    }
    // Whoever owns host and key: puts an older state back, notes and all; or writes another history of it.
    for round in 0..rounds.min(60) {
        let keep = below(lines.len());
        fs_err::write(&path, lines[..keep].concat()).unwrap();
        let _ = fs_err::remove_dir_all(folder.path().join("cosigned"));
        let count = counts.entry("rollback").or_default();
        count.tried += 1;
        let expected = Finding::Truncated { cosigned: ENTRIES };
        count.found += u64::from(findings(folder.path(), std::slice::from_ref(&note)) == [expected]);

        let other = tempfile::tempdir().unwrap();
        fs_err::write(other.path().join("log"), lines[..keep].concat()).unwrap();
        let mut log = open(other.path());
        while log.size() < ENTRIES + round % 3 {
            log.append("window.closed", &json!({ "nothing": "happened", "round": round })).unwrap();
        }
        let count = counts.entry("fork").or_default();
        count.tried += 1;
        let expected = Finding::Forked { cosigned: ENTRIES };
        count.found += u64::from(findings(other.path(), std::slice::from_ref(&note)) == [expected]);
        let witness = Witness::open(&folder.path().join("witness"), signer("kuramori/server", 2)).unwrap();
        let proof = log.prove(ENTRIES).ok();
        let count = counts.entry("fork-at-the-witness").or_default();
        count.tried += 1;
        let refused = witness.cosign(&log.note(), &key(), proof.as_ref(), &SystemClock);
        count.found += u64::from(matches!(refused, Err(Error::Forked { .. })));
    }
    let tried: u64 = counts.values().map(|count| count.tried).sum();
    let found: u64 = counts.values().map(|count| count.found).sum();
    println!("{found} of {tried} tampers found, seed {SEED}: {counts:?}");
    assert_eq!(found, tried, "{counts:?}");
    let evidence = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/evidence");
    fs_err::create_dir_all(&evidence).unwrap();
    let text = json!({ "test": "audit", "n": tried, "found": found, "seed": SEED, "kinds": counts });
    fs_err::write(evidence.join("audit.json"), text.to_string()).unwrap();
}
