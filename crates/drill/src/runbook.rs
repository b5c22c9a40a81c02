//! The runbook: what to do, in which order, with which commands, when everything is gone. Made from the
//! register, the newest trusted points and what was measured; printed before it is needed.
//!
//! It also holds the one-line answer: if everything were lost now, back to when, and in how many hours.
//! "Everything" includes the primary, so only the vault's copies count.

use std::fmt::Write;

use jiff::{Timestamp, tz::TimeZone};
use kuramori_model::units::Bytes;
use kuramori_report::{Block, Document, Language, Tone, span};
use serde::{Deserialize, Serialize};

use crate::{
    choose::{Choice, Copy},
    estimate::Estimate,
    page::{copy, exact, service, verdict},
    profile::{Profile, Service},
};

/// Everything that the runbook says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// The hospital's name.
    pub hospital: String,
    /// When it was made.
    pub made: Timestamp,
    /// The one-line answer.
    pub answer: Answer,
    /// The systems in the order in which they come back.
    pub systems: Vec<Entry>,
    /// Vaults that were introduced.
    pub vaults: Vec<String>,
    /// The fingerprint of the hospital's recovery identity: names the set of sheets that belongs to it.
    pub recovery: String,
    /// Where the server listens for the vault and for restic clients.
    pub address: String,
    /// The server's data folder.
    pub data: String,
}

/// One system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id; also the repository's name.
    pub id: String,
    /// Its name in Japanese.
    pub name_ja: String,
    /// Its name in English.
    pub name_en: String,
    /// Who answers for it.
    pub owner: String,
    /// The vendor.
    pub vendor: String,
    /// Whom to call.
    pub contact: String,
    /// The departmental server.
    pub server: String,
    /// How it is brought up.
    pub profile: Profile,
    /// What runs on its data.
    pub service: Service,
    /// The newest trusted point in the vault, with its reasons.
    pub vault: Option<Choice>,
    /// The newest trusted point anywhere.
    pub nearest: Option<Choice>,
    /// How old a point may be, in seconds.
    pub rpo_s: u64,
    /// How long it may take, in seconds.
    pub rto_s: u64,
    /// How long it is expected to take.
    pub expected: Option<Estimate>,
    /// When it was last drilled, whether that passed, and how long it took.
    pub drill: Option<(Timestamp, bool, f64)>,
}

/// If everything were lost now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Systems that have to come back.
    pub systems: usize,
    /// Back to when: the oldest of the newest trusted points in the vault.
    pub back_to: Option<Timestamp>,
    /// The system whose point that is.
    pub oldest: Option<String>,
    /// In how many seconds, one system after the other; none while nothing was measured.
    pub seconds: Option<f64>,
    /// Systems without a trusted point in the vault: lost.
    pub lost: Vec<String>,
    /// Systems whose time was never measured by a drill or restore of their own.
    pub unmeasured: Vec<String>,
}

impl Answer {
    /// Puts it together from the entries.
    pub fn of(entries: &[Entry]) -> Self {
        let mut answer = Self { systems: entries.len(), ..Self::default() };
        let mut seconds = Some(0.0);
        for entry in entries {
            let Some(choice) = &entry.vault else {
                answer.lost.push(entry.id.clone());
                continue;
            };
            // The primary received the same content earlier; that is the time that the data is of.
            let at = entry
                .nearest
                .as_ref()
                .filter(|nearest| nearest.point.snapshot == choice.point.snapshot)
                .map_or(choice.point.received, |nearest| nearest.point.received.min(choice.point.received));
            if answer.back_to.is_none_or(|oldest| at < oldest) {
                answer.back_to = Some(at);
                answer.oldest = Some(entry.id.clone());
            }
            if !entry.expected.is_some_and(|expected| expected.own) {
                answer.unmeasured.push(entry.id.clone());
            }
            seconds = seconds.zip(entry.expected).map(|(sum, expected)| sum + expected.seconds);
        }
        answer.seconds = seconds.filter(|_| answer.back_to.is_some());
        answer
    }

    /// The sentence.
    pub fn sentence(&self, language: Language, zone: &TimeZone) -> String {
        let ja = language == Language::Ja;
        let (Some(back), Some(oldest)) = (self.back_to, &self.oldest) else {
            return language
                .pick(
                    "今すべてを失った場合: 隔離保管庫に信頼できる復元点がないため、戻せません。",
                    "If everything were lost now: nothing could come back; the vault holds no trusted restore point.",
                )
                .to_owned();
        };
        let local = back.to_zoned(zone.clone());
        let time = if ja { local.strftime("%-m月%-d日 %H:%M") } else { local.strftime("%-d %b %H:%M") };
        let length = match self.seconds {
            Some(seconds) => span(language, seconds),
            None => language.pick("未測定の時間", "a time that was never measured").to_owned(),
        };
        let mut text = if ja {
            format!("今すべてを失った場合: {time} の状態へ、{length} で戻せます(最も古いのは {oldest})。")
        } else {
            format!("If everything were lost now: back to {time}, in {length} (the oldest is {oldest}).")
        };
        if !self.unmeasured.is_empty() && self.seconds.is_some() {
            let (count, all) = (self.unmeasured.len(), self.systems);
            let _ = if ja {
                write!(text, " {all} システム中 {count} は訓練による実測がなく、他の値からの見込みです。")
            } else {
                write!(
                    text,
                    " Of {all} systems {count} were never measured themselves and are estimated from others."
                )
            };
        }
        if !self.lost.is_empty() {
            let _ = if ja {
                write!(text, " 戻せないもの: {}。", self.lost.join("、"))
            } else {
                write!(text, " Lost: {}.", self.lost.join(", "))
            };
        }
        text
    }
}

/// Where the runbook's commands put things; the same names as in `docs/worst-day`.
const VAULT: &str = "/mnt/vault/store";
const RESTORED: &str = "/srv/restored";
const DESK: &str = "/root/recovery";

/// The runbook as a document.
pub fn document(book: &Book, language: Language, zone: &TimeZone) -> Document {
    let mut page = Document::new(
        language,
        language.pick("復旧手順書", "Recovery runbook"),
        format!("{}  {}", book.hospital, exact(book.made, zone)),
    );
    page.notice(
        if book.answer.lost.is_empty() && book.answer.back_to.is_some() { Tone::Plain } else { Tone::Bad },
        book.answer.sentence(language, zone),
    );
    first_hour(&mut page, book);
    order(&mut page, book, zone);
    keys(&mut page, book);
    for (at, entry) in book.systems.iter().enumerate() {
        system(&mut page, entry, at, zone);
    }
    page.footer = page
        .pick(
            "記録された事実から自動で作成。ジョブのたびに更新され、隔離保管庫にも入ります。印刷して保管してください。",
            "Made from recorded facts; renewed after each job and held in the vault too. Keep a print.",
        )
        .into();
    page
}

fn first_hour(page: &mut Document, book: &Book) {
    page.heading("最初にすること", "First");
    let points = if page.language == Language::Ja {
        vec![
            "電源は切らない。疑わしい機器はネットワークから切り離す(調査の証拠を残す)。".to_owned(),
            "隔離保管庫のゲートを緊急遮断する: 保管庫で `kuramori gate lockdown`。".to_owned(),
            "まっさらな機器 (Debian 12) を用意する。既存の機器には復元しない。".to_owned(),
            format!(
                "隔離保管庫 ({}) から復元する。手順は docs/worst-day.ja.md と以下のとおり。",
                list(&book.vaults)
            ),
            "元のデータは消さない。上書きしない。".to_owned(),
        ]
    } else {
        vec![
            "Do not switch machines off. Take suspected ones off the network (they are evidence).".to_owned(),
            "Lock the vault's gate down: at the vault, `kuramori gate lockdown`.".to_owned(),
            "Take a bare machine (Debian 12). Restore onto no machine that was there before.".to_owned(),
            format!(
                "Restore from the vault ({}) as docs/worst-day.md and the pages below say.",
                list(&book.vaults)
            ),
            "Delete nothing, overwrite nothing.".to_owned(),
        ]
    };
    page.add(Block::List { numbered: true, items: points });
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn order(page: &mut Document, book: &Book, zone: &TimeZone) {
    let language = page.language;
    page.heading("復旧順序", "Restore order");
    let mut rows = Vec::new();
    let mut clock = Some(0.0);
    for (at, entry) in book.systems.iter().enumerate() {
        clock = clock.zip(entry.expected).map(|(sum, expected)| sum + expected.seconds);
        rows.push(vec![
            (at + 1).to_string(),
            format!("{} ({})", language.pick(&entry.name_ja, &entry.name_en), entry.id),
            list(&entry.profile.depends_on),
            entry.vault.as_ref().map_or_else(
                || language.pick("なし(戻せません)", "none (lost)").to_owned(),
                |choice| {
                    format!("{}, {}", exact(choice.point.received, zone), verdict(language, choice.verdict))
                },
            ),
            entry.expected.map_or_else(
                || language.pick("未測定", "never measured").to_owned(),
                |expected| span(language, expected.seconds),
            ),
            clock.map_or_else(String::new, |clock| span(language, clock)),
            entry.contact.clone(),
        ]);
    }
    let head = [
        page.pick("順", "No."),
        page.pick("部門システム", "System"),
        page.pick("先に必要なもの", "Needs first"),
        page.pick("保管庫の復元点", "Point in the vault"),
        page.pick("所要", "Takes"),
        page.pick("開始からの累計", "Since the start"),
        page.pick("連絡先", "Contact"),
    ];
    page.table(&head, rows);
}

fn keys(page: &mut Document, book: &Book) {
    page.heading("鍵のありか", "Where the keys are");
    page.add(Block::Facts(vec![
        (
            page.pick("復旧用身元", "Recovery identity").to_owned(),
            page.pick(
                "分割シート 5 枚のうち 3 枚。保管者と場所は別紙(封筒)を参照",
                "any three of five sheets; who keeps them is on the sealed list",
            )
            .to_owned(),
        ),
        (page.pick("シートの組", "Set of sheets").to_owned(), book.recovery.clone()),
        (
            page.pick("各リポジトリのパスワード", "Passwords of the repositories").to_owned(),
            page.pick(
                "_control の復元点の wraps/<名前>/recovery.age (復旧用身元で開く)",
                "wraps/<name>/recovery.age in the restore point of _control (opened by the recovery identity)",
            )
            .to_owned(),
        ),
        (page.pick("蔵守サーバー", "Kuramori's server").to_owned(), format!("{} {}", book.address, book.data)),
    ]));
}

fn system(page: &mut Document, entry: &Entry, at: usize, zone: &TimeZone) {
    let language = page.language;
    let name = language.pick(&entry.name_ja, &entry.name_en);
    page.add(Block::Heading { text: format!("{}. {name} ({})", at + 1, entry.id), new_page: true });
    let drilled = match entry.drill {
        None => page.pick("なし", "never").to_owned(),
        Some((at, passed, took)) => format!(
            "{} {} ({})",
            exact(at, zone),
            page.pick(if passed { "合格" } else { "不合格" }, if passed { "passed" } else { "failed" }),
            span(language, took)
        ),
    };
    page.add(Block::Facts(vec![
        (page.pick("担当", "Owner").to_owned(), entry.owner.clone()),
        (page.pick("事業者", "Vendor").to_owned(), entry.vendor.clone()),
        (page.pick("連絡先", "Contact").to_owned(), entry.contact.clone()),
        (page.pick("元の機器", "Original server").to_owned(), entry.server.clone()),
        (page.pick("先に必要なもの", "Needs first").to_owned(), list(&entry.profile.depends_on)),
        (page.pick("起動するもの", "Runs").to_owned(), service(language, &entry.service)),
        (
            page.pick("目標 (RPO / RTO)", "Targets (RPO / RTO)").to_owned(),
            format!("{} / {}", span(language, entry.rpo_s as f64), span(language, entry.rto_s as f64)),
        ),
        (page.pick("最後の復元訓練", "Last drill").to_owned(), drilled),
    ]));
    let Some(choice) = &entry.vault else {
        page.notice(
            Tone::Bad,
            page.pick(
                "隔離保管庫に信頼できる復元点がありません。一次バックアップが無事な場合だけ戻せます。",
                "The vault holds no trusted restore point. It comes back only if the primary is unharmed.",
            ),
        );
        if let Some(nearest) = &entry.nearest {
            page.add(Block::Commands(vec![format!(
                "kuramori restore run {} --point {} --to {RESTORED}/{} --verify",
                entry.id, nearest.point.sequence.0, entry.id
            )]));
        }
        return;
    };
    let point = &choice.point;
    page.paragraph(format!(
        "{}: {}, {}, {}, {} {}",
        page.pick("使う復元点", "Restore point to use"),
        copy(language, Copy::Vault),
        exact(point.received, zone),
        verdict(language, choice.verdict),
        Bytes(point.bytes),
        page.pick("(大きさ)", "in size"),
    ));
    let (id, short) = (&entry.id, point.snapshot.get(..16).unwrap_or(&point.snapshot));
    page.add(Block::Sub(page.pick("蔵守で戻す", "With Kuramori").to_owned()));
    page.add(Block::Commands(vec![format!(
        "kuramori restore run {id} --direct /etc/kuramori/server.toml --copy vault --from {VAULT}/{id} --to {RESTORED}/{id} --yes --verify"
    )]));
    page.add(Block::Sub(
        page.pick("蔵守なしで戻す (Debian の age と restic)", "Without Kuramori (Debian's age and restic)")
            .to_owned(),
    ));
    page.add(Block::Commands(vec![
        format!("age -d -i {DESK}/recovery.txt -o {DESK}/{id}.password {DESK}/control/wraps/{id}/recovery.age"),
        format!("restic -r {VAULT}/{id} --no-lock --no-cache --password-file {DESK}/{id}.password restore {short} --target {RESTORED}/{id}"),
    ]));
    page.add(Block::Sub(page.pick("起動と確認", "Start and look").to_owned()));
    page.add(Block::Commands(start(entry)));
    if !entry.profile.notes.is_empty() {
        page.paragraph(entry.profile.notes.clone());
    }
}

/// How a person brings it up: what the profile says, else what its kind needs at least.
fn start(entry: &Entry) -> Vec<String> {
    if !entry.profile.start.is_empty() {
        return entry.profile.start.clone();
    }
    let at = format!("{RESTORED}/{}", entry.id);
    match &entry.service {
        Service::Postgres { superuser } => vec![
            format!("chown -R postgres: {at} && chmod 700 {at}"),
            format!(
                "setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/*/bin/pg_verifybackup {at}"
            ),
            format!(
                "setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/*/bin/pg_ctl -D {at} -w -l {at}/start.log -o \"-c listen_addresses='' -c unix_socket_directories={at} -c port=5432 -c archive_mode=off\" start"
            ),
            format!("psql -h {at} -U {superuser} -d postgres -l"),
        ],
        Service::Orthanc { folder } => vec![
            format!("chown -R orthanc: {at}"),
            format!(
                "echo '{{\"StorageDirectory\":\"{at}/{folder}\",\"IndexDirectory\":\"{at}/{folder}\",\"HttpPort\":8042}}' > {DESK}/orthanc.json"
            ),
            format!("setpriv --reuid=orthanc --regid=orthanc --clear-groups Orthanc {DESK}/orthanc.json &"),
        ],
        Service::MariadbDump { file } => {
            vec![format!("mariadb < {at}/{file}"), "mariadb-check --all-databases".to_owned()]
        }
        Service::PostgresDump { file, .. } => vec![format!("ls -l {at}/{file}")],
        Service::Files | Service::Share => vec![format!("find {at} -type f | wc -l")],
    }
}

#[cfg(test)]
mod tests {
    use kuramori_judge::retention::Verdict;
    use kuramori_model::ids::Sequence;

    use super::*;
    use crate::choose::{Candidate, Why};

    fn choice(copy: Copy, minute: i64, snapshot: &str) -> Choice {
        let point = Candidate {
            copy,
            sequence: Sequence(3),
            received: Timestamp::from_second(minute * 60).unwrap(),
            snapshot: snapshot.to_owned(),
            complete: true,
            verdict: Verdict::Clean,
            later: false,
            drilled: None,
            gone: false,
            bytes: 1 << 30,
            files: 4,
        };
        Choice {
            point,
            verdict: Verdict::Clean,
            why: vec![Why::NewestClean],
            passed_over: Vec::new(),
            step_back: None,
            reason: None,
        }
    }

    fn entry(id: &str, vault: Option<i64>, seconds: Option<f64>) -> Entry {
        Entry {
            id: id.to_owned(),
            name_ja: "医事会計".to_owned(),
            name_en: "Billing".to_owned(),
            owner: "医事課".to_owned(),
            vendor: "事業者A".to_owned(),
            contact: "内線 1234".to_owned(),
            server: "10.77.2.2".to_owned(),
            profile: Profile::default(),
            service: Service::Postgres { superuser: "postgres".to_owned() },
            vault: vault.map(|minute| choice(Copy::Vault, minute, "aaaaaaaaaaaaaaaabbbb")),
            nearest: vault.map(|minute| choice(Copy::Primary, minute - 30, "aaaaaaaaaaaaaaaabbbb")),
            rpo_s: 86_400,
            rto_s: 14_400,
            expected: seconds.map(|seconds| Estimate {
                seconds,
                rate: 1.0,
                measurements: 1,
                own: true,
                service: true,
            }),
            drill: None,
        }
    }

    fn book(systems: Vec<Entry>) -> Book {
        Book {
            hospital: "湊総合病院".to_owned(),
            made: Timestamp::from_second(0).unwrap(),
            answer: Answer::of(&systems),
            systems,
            vaults: vec!["vault".to_owned()],
            recovery: "ABCD".to_owned(),
            address: "10.77.1.2:8000".to_owned(),
            data: "/var/lib/kuramori".to_owned(),
        }
    }

    #[test]
    fn the_answer_says_back_to_when_in_how_long_and_never_invents_a_figure() {
        let zone = TimeZone::get("Asia/Tokyo").unwrap();
        let all = [entry("billing", Some(600), Some(3600.0)), entry("pacs", Some(500), Some(5400.0))];
        let answer = Answer::of(&all);
        assert_eq!(
            answer.sentence(Language::En, &zone),
            "If everything were lost now: back to 1 Jan 16:50, in 2 h 30 min (the oldest is pacs)."
        );
        assert!(answer.sentence(Language::Ja, &zone).contains("1月1日 16:50 の状態へ、2 時間 30 分"));
        let unknown = Answer::of(&[entry("billing", Some(600), None)]);
        assert_eq!((unknown.seconds, unknown.unmeasured.len()), (None, 1));
        assert!(unknown.sentence(Language::Ja, &zone).contains("未測定"));
        let lost = Answer::of(&[entry("billing", Some(600), Some(1.0)), entry("pacs", None, Some(1.0))]);
        assert!(lost.sentence(Language::En, &zone).ends_with("Lost: pacs."));
        assert!(
            Answer::of(&[entry("pacs", None, None)])
                .sentence(Language::En, &zone)
                .contains("nothing could come back")
        );
    }

    #[test]
    fn the_runbook_has_order_contacts_keys_and_commands_that_can_be_typed() {
        let book = book(vec![entry("billing", Some(600), Some(10.0)), entry("pacs", None, None)]);
        let text = document(&book, Language::Ja, &TimeZone::UTC).text();
        for wanted in ["復旧順序", "内線 1234", "鍵のありか", "ABCD", "最も古いのは billing", "戻せません"]
        {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        let restic = "    restic -r /mnt/vault/store/billing --no-lock --no-cache --password-file /root/recovery/billing.password restore aaaaaaaaaaaaaaaa --target /srv/restored/billing\n";
        assert!(text.contains(restic), "{text}");
        assert!(!document(&book, Language::En, &TimeZone::UTC).html().contains("http"));
    }
}
