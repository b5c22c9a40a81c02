//! A hospital's list as its spreadsheet exports it.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its own list may stop")]

use kuramori_assess::{Answers, AssessError, Verdict, assess, document, parse};
use kuramori_report::Language;

const LIST: &str = "部門システム名,重要度,データ区分,バックアップ,世代数,オフライン保管,追記不能,復元確認日,復旧順序,前提システム,連絡先,RTO(時間),備考\r\n\
    電子カルテ,最重要,電子カルテ,有,3,有,有,2025-11-02,1,認証基盤,内線 100,４時間,\r\n\
    医事会計,最重要,その他,有,14,無,無,未実施,2,認証基盤、電子カルテ,内線 200,8h,夜間停止\r\n\
    画像診断,重要,その他,有,,不明,,,3,,,1日,\r\n\
    眼科,標準,その他,無,,,,,,,\"内線 300,\n携帯 090\",,\r\n\
    認証基盤,最重要,その他,有,7,有,無,未,9,,内線 101,2h,\r\n";

fn judged(bytes: &[u8], answers: &str) -> kuramori_assess::Assessment {
    assess(&parse(bytes).unwrap(), &Answers::read(answers).unwrap())
}

#[test]
fn the_page_names_gaps_order_and_three_steps_and_never_says_that_rules_are_met() {
    let found =
        judged(LIST.as_bytes(), "hospital = \"湊総合病院\"\norder_decided = false\nkeys_kept = true\n");
    let order: Vec<&str> = found.gaps.iter().map(|gap| gap.system.as_str()).collect();
    assert_eq!(
        order,
        ["画像診断", "認証基盤", "電子カルテ", "医事会計", "眼科"],
        "what is needed comes first"
    );
    let of = |name: &str| found.gaps.iter().find(|gap| gap.system == name).unwrap();
    assert_eq!((of("電子カルテ").generations, of("電子カルテ").count), (Verdict::Missing, (Some(3), 5)));
    assert_eq!(of("医事会計").offline, Verdict::Missing);
    assert_eq!(of("医事会計").restored, Verdict::Missing);
    assert_eq!(of("画像診断").offline, Verdict::ToBeConfirmed, "not known is not good");
    assert_eq!(of("画像診断").contact, Verdict::Missing);
    assert_eq!(of("眼科").backup, Verdict::Missing);
    let steps: Vec<_> = found.steps.iter().map(|step| (step.key, step.systems.len())).collect();
    assert_eq!(steps, [("take-backups", 1), ("offline-copy", 2), ("ask-vendors", 1)]);
    assert_eq!(found.ignored, ["備考"]);
    for language in [Language::Ja, Language::En] {
        let page = document(&found, language, "2026-11-22");
        for text in [page.html(), page.text()] {
            assert!(text.contains("眼科") && text.contains("湊総合病院"));
            for never in ["適合", "compliant", "conform"] {
                assert!(!text.to_lowercase().contains(never), "{never}: {text}");
            }
        }
    }
    let text = document(&found, Language::Ja, "2026-11-22").text();
    assert!(
        text.contains("5 システムのうち、バックアップなし 1、要確認 0。切り離した写しがあるのは 2。"),
        "{text}"
    );
    assert!(text.contains("1. バックアップのないシステムの取得を始める: 眼科"), "{text}");
}

#[test]
fn shift_jis_as_a_spreadsheet_writes_it_says_the_same() {
    let (bytes, _, replaced) = encoding_rs_bytes(LIST);
    assert!(!replaced);
    assert!(std::str::from_utf8(&bytes).is_err(), "it must not be UTF-8 by chance");
    assert_eq!(parse(&bytes).unwrap().rows, parse(LIST.as_bytes()).unwrap().rows);
    assert_eq!(parse(&bytes).unwrap().encoding, "Shift_JIS");
    let marked = [b"\xef\xbb\xbf", LIST.as_bytes()].concat();
    assert_eq!(parse(&marked).unwrap().rows.len(), 5);
    assert_eq!(parse(b"\xff\xfe\xff\x80").unwrap_err(), AssessError::Encoding);
}

fn encoding_rs_bytes(text: &str) -> (Vec<u8>, &'static str, bool) {
    let (bytes, encoding, replaced) = encoding_rs::SHIFT_JIS.encode(text);
    (bytes.into_owned(), encoding.name(), replaced)
}

#[test]
fn a_cell_that_cannot_be_read_is_named_with_its_line() {
    let wrong = "name,offline\nbilling,有\npacs,たぶん\n";
    let error = parse(wrong.as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("line 3: `offline`: `たぶん`"), "{error}");
    assert!(matches!(parse("a,b\n1,2\n".as_bytes()), Err(AssessError::NoNames(_))));
    assert!(Answers::read("colour = true").is_err());
    let form = Answers::form(true).replace("# order_decided", "order_decided");
    assert_eq!(Answers::read(&form).unwrap().order_decided, Some(true));
    let nothing = judged("name\n".as_bytes(), "");
    assert_eq!(nothing.steps[0].key, "list-systems");
}
