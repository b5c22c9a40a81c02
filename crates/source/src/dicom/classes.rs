//! Which kinds of pictures a study may hold (PS3.4, B.5; PS3.3, C.7.3.1.1.1), and the ways to write them.

use std::collections::BTreeSet;

use super::element::{EXPLICIT, IMPLICIT};

/// Transfer syntaxes, each proposed on its own (PS3.5, 10; PS3.6, A).
pub(super) const SYNTAXES: [&str; 18] = [
    EXPLICIT,
    IMPLICIT,
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.2.4.102",
    "1.2.840.10008.1.2.4.103",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.203",
];

/// Below `1.2.840.10008.5.1.4.1.1.`: the kinds of each modality.
const KINDS: &[(&str, &[&str])] = &[
    ("CT", &["2", "2.1", "2.2"]),
    ("MR", &["4", "4.1", "4.2", "4.3"]),
    ("CR", &["1"]),
    ("DX", &["1.1", "1.1.1", "1"]),
    ("MG", &["1.2", "1.2.1", "13.1.3", "13.1.4"]),
    ("IO", &["1.3", "1.3.1"]),
    ("PX", &["1.3", "1.1"]),
    ("US", &["6.1", "3.1", "6", "3", "6.2"]),
    ("IVUS", &["6.1", "3.1"]),
    ("XA", &["12.1", "12.1.1", "13.1.1"]),
    ("RF", &["12.2", "12.2.1"]),
    ("NM", &["20", "5"]),
    ("PT", &["128", "128.1", "130"]),
    ("ES", &["77.1.1", "77.1.1.1"]),
    ("GM", &["77.1.2", "77.1.2.1"]),
    ("SM", &["77.1.6", "77.1.3"]),
    ("XC", &["77.1.4", "77.1.4.1"]),
    ("OP", &["77.1.5.1", "77.1.5.2"]),
    ("OPT", &["77.1.5.4"]),
    ("ECG", &["9.1.1", "9.1.2", "9.1.3"]),
    ("HD", &["9.2.1"]),
    ("EPS", &["9.3.1"]),
    ("AU", &["9.4.1", "9.4.2"]),
    ("SR", &["88.11", "88.22", "88.33", "88.67"]),
    ("KO", &["88.59"]),
    ("PR", &["11.1", "11.2", "11.3"]),
    ("SEG", &["66.4"]),
    ("REG", &["66.1"]),
    ("DOC", &["104.1", "104.2"]),
    ("RTIMAGE", &["481.1"]),
    ("RTDOSE", &["481.2"]),
    ("RTSTRUCT", &["481.3"]),
    ("RTPLAN", &["481.5", "481.8"]),
    ("RTRECORD", &["481.4", "481.7"]),
    ("OT", &["7", "7.1", "7.2", "7.3", "7.4"]),
];

fn full<'a>(kinds: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    kinds.iter().map(|kind| format!("1.2.840.10008.5.1.4.1.1.{kind}"))
}

/// The kinds to ask for, the likeliest first: those that the archive named, those that the modality suggests,
/// those that it has sent before, and then all others.
pub(super) fn likely(
    named: &BTreeSet<String>,
    modalities: &BTreeSet<String>,
    seen: &BTreeSet<String>,
) -> Vec<String> {
    let of = |modality: &str| -> Vec<String> {
        KINDS.iter().filter(|(name, _)| *name == modality).flat_map(|(_, kinds)| full(kinds)).collect()
    };
    let suggested = modalities.iter().flat_map(|modality| of(modality));
    let others = of("OT").into_iter().chain(KINDS.iter().flat_map(|(_, kinds)| full(kinds)));
    let mut kinds = Vec::new();
    let mut known = BTreeSet::new();
    for kind in named.iter().cloned().chain(suggested).chain(seen.iter().cloned()).chain(others) {
        if known.insert(kind.clone()) {
            kinds.push(kind);
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_or_suggested_is_asked_for_first_and_nothing_twice() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let kinds = likely(&set(&["1.2.9"]), &set(&["CT"]), &set(&["1.2.8"]));
        assert_eq!(&kinds[..2], ["1.2.9", "1.2.840.10008.5.1.4.1.1.2"]);
        assert_eq!(kinds[4], "1.2.8");
        assert_eq!(kinds.len(), kinds.iter().collect::<BTreeSet<_>>().len());
        assert!(127 / SYNTAXES.len() >= 7);
    }
}
