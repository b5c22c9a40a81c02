//! A notice in words: subject and plain text, Japanese first where both are wanted.

use std::{collections::BTreeMap, fmt::Write};

use jiff::{Timestamp, tz::TimeZone};
use kuramori_model::ids::SystemId;
use lettre::{
    Message,
    message::{Mailbox, header::ContentType},
};

use crate::{Item, Language, Notice, Notify, NotifyError, Occasion, Target, Words, dash};

/// A letter, ready to be handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Sender.
    pub from: Mailbox,
    /// Readers.
    pub to: Vec<Mailbox>,
    /// One line.
    pub subject: String,
    /// Plain text.
    pub body: String,
    /// With angle brackets; the same notice to the same target has the same one.
    pub message_id: String,
    /// The message id of the letter that it belongs below.
    pub answers: Option<String>,
    /// When the notice was made.
    pub at: Timestamp,
}

/// Puts a notice into words for a target.
pub fn compose(config: &Notify, target: &Target, notice: &Notice) -> Result<Letter, NotifyError> {
    let zone = TimeZone::get(&config.zone).map_err(|_| NotifyError::BadZone(config.zone.clone()))?;
    let mailbox = |address: &String| {
        address.parse::<Mailbox>().map_err(|source| NotifyError::BadAddress {
            target: target.name.clone(),
            address: address.clone(),
            source,
        })
    };
    let from = mailbox(&target.smtp.from)?;
    let to = target.smtp.to.iter().map(mailbox).collect::<Result<Vec<_>, _>>()?;
    if to.is_empty() {
        return Err(NotifyError::NoReader(target.name.clone()));
    }
    let voices = match target.language {
        Language::Both => vec![Voice::japanese(&zone), Voice::english(&zone)],
        Language::Ja => vec![Voice::japanese(&zone)],
        Language::En => vec![Voice::english(&zone)],
    };
    let subjects: Vec<String> = voices.iter().map(|voice| voice.subject(notice)).collect();
    let bodies: Vec<String> = voices.iter().map(|voice| voice.body(config, notice)).collect();
    let message_id = |id: &str| format!("<{}.{}@{}>", plain(id), plain(&target.name), from.email.domain());
    Ok(Letter {
        subject: subjects.join(" / "),
        body: bodies.join(&format!("\n{}\n\n", "-".repeat(60))),
        message_id: message_id(&notice.id),
        answers: notice.answers.as_deref().map(message_id),
        at: notice.at,
        from,
        to,
    })
}

/// Only what a message id may hold without quotes.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' }).collect()
}

impl Letter {
    pub(crate) fn mail(&self) -> Result<Message, NotifyError> {
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(self.subject.clone())
            .date(self.at.into())
            .message_id(Some(self.message_id.clone()));
        for reader in &self.to {
            builder = builder.to(reader.clone());
        }
        if let Some(answers) = &self.answers {
            builder = builder.in_reply_to(answers.clone()).references(answers.clone());
        }
        builder.header(ContentType::TEXT_PLAIN).body(self.body.clone()).map_err(NotifyError::Letter)
    }
}

/// One language with its zone.
struct Voice<'a> {
    words: &'static Words,
    japanese: bool,
    zone: &'a TimeZone,
}

impl<'a> Voice<'a> {
    fn japanese(zone: &'a TimeZone) -> Self {
        Self { words: Words::japanese(), japanese: true, zone }
    }

    fn english(zone: &'a TimeZone) -> Self {
        Self { words: Words::english(), japanese: false, zone }
    }

    fn subject(&self, notice: &Notice) -> String {
        let first = notice.items.first();
        let mut figures = BTreeMap::new();
        figures.insert("count".to_owned(), notice.items.len().to_string());
        if let Some(item) = first {
            figures.insert("system".to_owned(), self.name(item));
            figures.insert("title".to_owned(), self.title(item));
            figures.insert("severity".to_owned(), self.severity(item));
        }
        let key = match notice.occasion {
            Occasion::Opened => "subject-opened",
            Occasion::Raised => "subject-raised",
            Occasion::Recovered => "subject-recovered",
            Occasion::Digest => "subject-digest",
            Occasion::Daily if notice.items.is_empty() => "subject-daily-quiet",
            Occasion::Daily => "subject-daily",
            Occasion::Test => "subject-test",
        };
        self.words.say(key, &figures)
    }

    fn body(&self, config: &Notify, notice: &Notice) -> String {
        let mut text = String::new();
        let hospital = BTreeMap::from([("hospital".to_owned(), config.hospital.clone())]);
        let _ = writeln!(text, "{}\n", self.words.say("greeting", &hospital));
        let intro = match notice.occasion {
            Occasion::Opened | Occasion::Raised => None,
            Occasion::Recovered => Some("intro-recovered"),
            Occasion::Digest => Some("intro-digest"),
            Occasion::Daily => Some("intro-daily"),
            Occasion::Test => Some("intro-test"),
        };
        if let Some(intro) = intro {
            let _ = writeln!(text, "{}\n", self.words.word(intro));
        }
        for (name, value) in &notice.figures {
            let _ = writeln!(text, "  {}: {}", self.label(name), self.words.figure(value, self.zone));
        }
        if !notice.figures.is_empty() {
            text.push('\n');
        }
        for item in &notice.items {
            self.item(&mut text, item);
        }
        if notice.occasion == Occasion::Daily && notice.items.is_empty() {
            let _ = writeln!(text, "{}\n", self.words.word("nothing-open"));
        }
        let _ = writeln!(text, "{}: {}", self.words.word("made-at"), self.time(notice.at));
        if let Some(console) = &config.console {
            let _ = writeln!(text, "{}: {console}", self.words.word("console"));
        }
        text
    }

    fn item(&self, text: &mut String, item: &Item) {
        let finding = &item.finding;
        let mut figures: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &finding.params {
            figures.insert(name.clone(), self.words.figure(value, self.zone));
        }
        let head = if item.closed.is_some() { self.words.word("over") } else { self.severity(item) };
        let _ = writeln!(text, "[{head}] {}: {}", self.name(item), self.title(item));
        let mut all = figures.clone();
        all.insert("system".to_owned(), self.name(item));
        all.insert("code".to_owned(), finding.code.clone());
        let sentence = self.words.find(&dash(&finding.code), &all);
        let _ = writeln!(text, "  {}", sentence.unwrap_or_else(|| self.words.say("unknown-finding", &all)));
        if item.closed.is_none() {
            let action = self.words.find(&format!("action-{}", finding.action), &all);
            let action = action.unwrap_or_else(|| finding.action.clone());
            let _ = writeln!(text, "  {}: {action}", self.words.word("next-action"));
        }
        for (name, value) in &figures {
            let _ = writeln!(text, "  {}: {value}", self.label(name));
        }
        let _ = writeln!(text, "  {}: {}", self.words.word("opened-at"), self.time(item.opened));
        if let Some(closed) = item.closed {
            let _ = writeln!(text, "  {}: {}", self.words.word("closed-at"), self.time(closed));
        }
        let mut records = finding.evidence.clone();
        records.push(finding.code.clone());
        let _ = writeln!(text, "  {}: {}\n", self.words.word("records"), records.join(", "));
    }

    /// The name by which people know the system, with its id.
    fn name(&self, item: &Item) -> String {
        let name = if self.japanese { &item.name_ja } else { &item.name_en };
        match (item.finding.system.as_ref().map(SystemId::as_str), name.as_str()) {
            (None, _) => self.words.word("platform"),
            (Some(id), "") => id.to_owned(),
            (Some(id), name) => format!("{name} ({id})"),
        }
    }

    fn title(&self, item: &Item) -> String {
        let key = format!("title-{}", dash(&item.finding.code));
        self.words.find(&key, &BTreeMap::new()).unwrap_or_else(|| item.finding.code.clone())
    }

    fn severity(&self, item: &Item) -> String {
        self.words.word(&format!("severity-{}", item.finding.severity.as_str()))
    }

    fn label(&self, name: &str) -> String {
        self.words.find(&format!("figure-{name}"), &BTreeMap::new()).unwrap_or_else(|| name.to_owned())
    }

    fn time(&self, at: Timestamp) -> String {
        self.words.figure(&at.into(), self.zone)
    }
}
