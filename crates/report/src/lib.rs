//! Pages for people, from recorded facts.
//!
//! **In** flows a [`Document`]: headings, sentences, tables, commands, boxes to sign. **Out** comes the same
//! as one HTML file (its style inside, for screen and A4 paper, no script, nothing loaded from anywhere) and
//! as plain text that a rescue console can show. Both are made from the same blocks, so they cannot differ.
//!
//! **What can go wrong** is only what the facts say: a figure that is not there is printed as such by whoever
//! fills the document.
//!
//! **Invariant:** judges nothing and reads nothing; every text is escaped.

mod html;
mod text;

/// A language of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// 日本語
    Ja,
    /// English
    En,
}

impl Language {
    /// Picks the reader's text.
    pub const fn pick<'a>(self, ja: &'a str, en: &'a str) -> &'a str {
        match self {
            Self::Ja => ja,
            Self::En => en,
        }
    }

    /// The tag for HTML.
    pub const fn tag(self) -> &'static str {
        self.pick("ja", "en")
    }
}

/// How a line is meant; shown by a word and a sign, never by colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Look at it.
    Attention,
    /// Act.
    Bad,
    /// Neither.
    Plain,
}

impl Tone {
    const fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Attention => "▲",
            Self::Bad => "✕",
            Self::Plain => "・",
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Attention => "attention",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// A heading of the second level; on paper it may begin a new page.
    Heading {
        /// Its words.
        text: String,
        /// Whether paper begins anew here.
        new_page: bool,
    },
    /// A smaller heading.
    Sub(String),
    /// A sentence or some.
    Paragraph(String),
    /// One line that says how something stands.
    Notice(Tone, String),
    /// Points, in order if numbered.
    List {
        /// Whether the order matters.
        numbered: bool,
        /// The points.
        items: Vec<String>,
    },
    /// Commands to type, line by line.
    Commands(Vec<String>),
    /// A table.
    Table {
        /// Headings of the columns.
        head: Vec<String>,
        /// Rows, each as long as the head.
        rows: Vec<Vec<String>>,
    },
    /// Names with values.
    Facts(Vec<(String, String)>),
    /// Boxes to write or to stamp into, each with its word: 作成・確認・承認.
    Boxes(Vec<String>),
}

/// A page or some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its language.
    pub language: Language,
    /// Its title.
    pub title: String,
    /// What stands below the title: hospital, time.
    pub subtitle: String,
    /// Its parts.
    pub blocks: Vec<Block>,
    /// What stands at the end of each paper: where it comes from.
    pub footer: String,
}

impl Document {
    /// An empty one.
    pub fn new(language: Language, title: impl Into<String>, subtitle: impl Into<String>) -> Self {
        Self {
            language,
            title: title.into(),
            subtitle: subtitle.into(),
            blocks: Vec::new(),
            footer: String::new(),
        }
    }

    /// Picks the reader's text.
    pub const fn pick<'a>(&self, ja: &'a str, en: &'a str) -> &'a str {
        self.language.pick(ja, en)
    }

    /// Adds a part.
    pub fn add(&mut self, block: Block) -> &mut Self {
        self.blocks.push(block);
        self
    }

    /// Adds a heading.
    pub fn heading(&mut self, ja: &str, en: &str) -> &mut Self {
        let text = self.pick(ja, en).to_owned();
        self.add(Block::Heading { text, new_page: false })
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: impl Into<String>) -> &mut Self {
        self.add(Block::Paragraph(text.into()))
    }

    /// Adds a line that says how something stands.
    pub fn notice(&mut self, tone: Tone, text: impl Into<String>) -> &mut Self {
        self.add(Block::Notice(tone, text.into()))
    }

    /// Adds a table.
    pub fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) -> &mut Self {
        let head = head.iter().map(|&word| word.to_owned()).collect();
        self.add(Block::Table { head, rows })
    }

    /// The document as one HTML file.
    pub fn html(&self) -> String {
        html::render(self)
    }

    /// The document as plain text.
    pub fn text(&self) -> String {
        text::render(self)
    }
}

/// A length of time in words: `4 分 10 秒`, `3 h 20 min`.
pub fn span(language: Language, seconds: f64) -> String {
    let whole = if seconds.is_finite() && seconds > 0.0 { seconds } else { 0.0 };
    if whole < 10.0 {
        return format!("{whole:.1} {}", language.pick("秒", "s"));
    }
    // A length of time on a page is far below 2^53 seconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be positive and finite"
    )]
    let whole = whole.round() as u64;
    let (s, min, h, d) = (
        language.pick("秒", "s"),
        language.pick("分", "min"),
        language.pick("時間", "h"),
        language.pick("日", "d"),
    );
    match whole {
        0..60 => format!("{whole} {s}"),
        60..3600 if whole.is_multiple_of(60) => format!("{} {min}", whole / 60),
        60..3600 => format!("{} {min} {} {s}", whole / 60, whole % 60),
        3600..172_800 if whole % 3600 < 60 => format!("{} {h}", whole / 3600),
        3600..172_800 => format!("{} {h} {} {min}", whole / 3600, whole % 3600 / 60),
        _ => format!("{} {d} {} {h}", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Document {
        let mut page = Document::new(Language::Ja, "復旧手順 <x>", "湊総合病院 & 2026");
        page.heading("順序", "Order").paragraph("a < b").notice(Tone::Bad, "失敗 \"今\"");
        page.table(&["名", "値"], vec![vec!["医事会計".into(), "1<2".into()], vec!["x".into(), "y".into()]]);
        page.add(Block::Commands(vec!["echo '<&>'".into()]));
        page.add(Block::Facts(vec![("鍵".into(), "金庫".into())]));
        page.add(Block::List { numbered: true, items: vec!["一".into(), "二".into()] });
        page.add(Block::Boxes(vec!["作成".into(), "承認".into()]));
        page
    }

    #[test]
    fn html_is_escaped_loads_nothing_and_says_the_same_as_the_text() {
        let (html, text) = (sample().html(), sample().text());
        assert!(html.contains("<title>復旧手順 &lt;x&gt;</title>") && !html.contains("<x>"));
        assert!(html.contains("echo &#39;&lt;&amp;&gt;&#39;"));
        for never in ["<script", "http://", "https://", "url(", "@import", "src="] {
            assert!(!html.contains(never), "{never}");
        }
        for both in ["湊総合病院", "順序", "医事会計", "金庫", "承認"] {
            assert!(html.contains(both) && text.contains(both), "{both}");
        }
        assert!(text.contains("\n    echo '<&>'\n"), "a command stands alone on its line: {text}");
        assert!(text.contains("1. 一\n2. 二\n"));
    }

    #[test]
    fn lengths_of_time_are_short() {
        assert_eq!(span(Language::Ja, 4.26), "4.3 秒");
        assert_eq!(span(Language::Ja, 250.0), "4 分 10 秒");
        assert_eq!(span(Language::En, 12_000.0), "3 h 20 min");
        assert_eq!(span(Language::En, f64::NAN), "0.0 s");
    }
}
