//! Patients who do not exist.

use super::{decide, pick};

const SURNAMES: [(&str, &str, &str); 12] = [
    ("試験", "テスト", "TEST"),
    ("模擬", "モギ", "TEST-MOGI"),
    ("架空", "カクウ", "TEST-KAKU"),
    ("見本", "ミホン", "TEST-MIHON"),
    ("検証", "ケンショウ", "TEST-KENSHO"),
    ("仮野", "カリノ", "TEST-KARINO"),
    ("例田", "レイタ", "TEST-REITA"),
    ("髙試", "タカシ", "TEST-TAKASHI"),
    ("﨑験", "サキケン", "TEST-SAKIKEN"),
    ("練習", "レンシュウ", "TEST-RENSHU"),
    ("無実", "ムジツ", "TEST-MUJITSU"),
    ("偽名", "ギメイ", "TEST-GIMEI"),
];
const GIVEN: [(&str, &str, &str); 10] = [
    ("太郎", "タロウ", "TARO"),
    ("花子", "ハナコ", "HANAKO"),
    ("一郎", "イチロウ", "ICHIRO"),
    ("さくら", "サクラ", "SAKURA"),
    ("健", "ケン", "KEN"),
    ("美咲", "ミサキ", "MISAKI"),
    ("翔", "ショウ", "SHO"),
    ("陽子", "ヨウコ", "YOKO"),
    ("誠", "マコト", "MAKOTO"),
    ("恵", "メグミ", "MEGUMI"),
];

/// One invented patient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patient {
    /// `TEST000123`.
    pub id: String,
    /// In kanji, marked: `TEST試験太郎`.
    pub name: String,
    /// As DICOM writes a Japanese name: alphabetic=ideographic=phonetic (PS3.5, section 6.2.1.1).
    pub dicom_name: String,
    /// `YYYYMMDD`.
    pub born: String,
    /// `M` or `F`.
    pub sex: &'static str,
}

/// The patient with that number.
pub fn patient(seed: u64, number: u64) -> Patient {
    let of = |what| decide(seed, what, number);
    let (surname, given) = (SURNAMES[(of(1) % 12) as usize], GIVEN[(of(2) % 10) as usize]);
    Patient {
        id: format!("TEST{number:06}"),
        name: format!("TEST{}{}", surname.0, given.0),
        dicom_name: format!("{}^{}={}^{}={}^{}", surname.2, given.2, surname.0, given.0, surname.1, given.1),
        born: format!("{}{:02}{:02}", 1930 + of(3) % 80, 1 + of(4) % 12, 1 + of(5) % 28),
        sex: pick(&["M", "F"], of(6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patient_is_marked_and_comes_again_with_the_seed() {
        for number in 0..500 {
            let one = patient(7, number);
            assert!(
                one.id.starts_with("TEST")
                    && one.name.starts_with("TEST")
                    && one.dicom_name.starts_with("TEST")
            );
            assert_eq!(one, patient(7, number));
        }
        assert!((0..20).any(|n| patient(7, n).name != patient(8, n).name));
    }
}
