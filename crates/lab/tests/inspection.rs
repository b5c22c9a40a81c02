//! How much of each attack inspection notices, and how often it cries wolf: short here, in full with
//! `KURAMORI_LONG=1`. The figures go to `target/evidence/inspect.json` and `dwell.json`.

use std::path::Path;

use kuramori_lab::inspection::{Amount, Dwellings, Evidence, dwell, measure};

#[test]
fn attacks_are_noticed_and_clean_days_are_left_in_peace() {
    let amount = if std::env::var_os("KURAMORI_LONG").is_some() { Amount::LONG } else { Amount::SHORT };
    let folder = tempfile::tempdir().unwrap();
    let evidence = measure(folder.path(), amount, &mut |_| ()).unwrap();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/evidence");
    fs_err::create_dir_all(&target).unwrap();
    fs_err::write(target.join("inspect.json"), serde_json::to_vec_pretty(&evidence).unwrap()).unwrap();

    let days = evidence.clean_days();
    eprintln!(
        "seeds from {}: {} false alarms in {} clean source-days",
        amount.first_seed, days.hits, days.of
    );
    assert!(days.hits * 100 <= days.of, "{:#?}", evidence.false_reasons);
    // What no program can tell from its bytes is left out, and said so in docs/inspection.md.
    let blind = ["vendor", "encrypted", "xz"];
    for (attack, without) in [
        ("full", &blind[..2]),
        ("quiet", &blind[..2]),
        ("base64", &blind[..2]),
        ("header_spared", &blind[..]),
    ] {
        let rate = Evidence::over(&evidence.files, attack, without);
        eprintln!("{attack}: {} of {} files", rate.hits, rate.of);
        assert!(rate.of > 100 && rate.share() >= 0.99, "{attack}: {rate:?}");
    }
    for (kind, attacks) in evidence.files.iter().filter(|(kind, _)| kind.starts_with("dicom")) {
        let rate = attacks["header_spared"];
        assert!(rate.of > 0 && rate.hits == rate.of, "{kind}: {rate:?}: pixels of known objects");
    }
    let all = Evidence::over(&evidence.all_files, "full", &[]);
    assert!(all.of > 0 && all.hits == all.of, "a source that is encrypted as a whole: {all:?}");
    let untouched = Evidence::over(&evidence.files, "rename_only", &[]);
    assert_eq!(untouched.hits, 0, "a file whose bytes are as they were is not called bad");
}

#[test]
fn a_slow_attacker_leads_the_restore_back_before_the_first_bad_point() {
    let long = std::env::var_os("KURAMORI_LONG").is_some();
    let amount = if long { Dwellings::LONG } else { Dwellings::SHORT };
    let folder = tempfile::tempdir().unwrap();
    let evidence = dwell(folder.path(), amount, &mut |_| ()).unwrap();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/evidence");
    fs_err::create_dir_all(&target).unwrap();
    fs_err::write(target.join("dwell.json"), serde_json::to_vec_pretty(&evidence).unwrap()).unwrap();
    eprintln!(
        "seeds from {}: {} simulated nights, {:?}",
        amount.first_seed, evidence.nights, evidence.counts
    );

    // A ward that writes everything anew each night: one spoilt sheet is nothing, so the attack is found late.
    let ward = evidence.counts["busy_ward"];
    let known = format!("{ward:?} {:#?}", evidence.others);
    assert!((ward.unnoticed + ward.poisoned) * 50 <= ward.sources, "{known}");
    assert!(ward.poisoned_without_stepping_back * 2 > ward.sources, "it would be noticed: {known}");
    assert!(ward.found_later > 0 && ward.nights_until_noticed >= ward.sources, "{known}");
    assert!(ward.right * 10 >= ward.sources * 9, "{known}");
    // Whatever was noticed, in every department: hardly ever a point with the attacker in it.
    let all = evidence.total(&["encrypted_dumps"]);
    assert!(all.poisoned * 50 <= all.sources, "{all:?} {:#?}", evidence.others);
}
