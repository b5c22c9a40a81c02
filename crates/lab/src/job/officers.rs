//! Three officers: two with keys on machines of their own, one with a sealed sheet of paper. What they approve
//! goes through the product's own verbs, as people would do it.

use serde_json::Value;

use super::{site::last_json, vault::Vault};
use crate::{LabError, Result};

/// Those with keys.
const WITH_KEYS: [&str; 2] = ["sato", "tanaka"];
/// The one with paper.
const WITH_PAPER: &str = "suzuki";
/// Who asks in the night; no officer.
const PROPOSER: &str = "toban";

fn missing(what: &'static str) -> LabError {
    LabError::NoService(what)
}

impl Vault<'_> {
    fn officer_file(&self, name: &str) -> std::path::PathBuf {
        self.folder.join("officers").join(name)
    }

    fn vault_verb(&self, words: &[&str]) -> Result<Value> {
        last_json(&self.host().text(&self.verb(words))?)
    }

    /// Makes keys and paper, and enrols the three.
    pub(super) fn enrol_officers(&self) -> Result<()> {
        fs_err::create_dir_all(self.folder.join("officers"))?;
        for name in WITH_KEYS {
            let file = self.officer_file(&format!("{name}.key")).display().to_string();
            let made = self.vault_verb(&["officer", "key", "--out", &file])?;
            let key = made["key"].as_str().ok_or(missing("an officer's key"))?;
            self.vault_verb(&["officer", "add", name, "--key", key])?;
        }
        self.vault_verb(&["officer", "add", WITH_PAPER])?;
        let page = self.officer_file("suzuki.html").display().to_string();
        self.vault_verb(&["officer", "sheet", WITH_PAPER, "--out", &page])?;
        Ok(())
    }

    /// Asks, has it approved by a key and by line `line` of the paper, and does it.
    pub(super) fn approved(&self, words: &[&str], line: usize) -> Result<Value> {
        let ask = [words, &["--proposer", PROPOSER]].concat();
        // Waiting for officers has an exit code of its own, and is what is expected here.
        let asked = last_json(&self.host().try_run(&self.verb(&ask))?.text())?;
        let waiting = &asked["waiting"];
        let number = waiting["request"].as_u64().ok_or(missing("a request"))?.to_string();
        let short = waiting["short_code"].as_str().ok_or(missing("a short code"))?;

        let file = self.officer_file("request.json");
        fs_err::write(&file, waiting.to_string())?;
        let (key, file) = (self.officer_file("sato.key").display().to_string(), file.display().to_string());
        let signed = self.vault_verb(&["officer", "sign", "--key", &key, "--request", &file])?;
        let signature = signed["signature"].as_str().ok_or(missing("a signature"))?;
        self.vault_verb(&["approve", &number, "--officer", WITH_KEYS[0], "--signature", signature])?;

        // The sheet is opened, the short code read back, a line read out.
        let code = self.paper(line)?;
        let typed = format!("{short}\n{line}-{code}\n");
        let approve = self.verb(&["approve", &number, "--officer", WITH_PAPER]).input(typed);
        last_json(&self.host().text(&approve)?)?;

        let carry = [&words[..1], &["--request", &number]].concat();
        let carry = if words.contains(&"--yes") { [carry.as_slice(), &["--yes"]].concat() } else { carry };
        self.vault_verb(&carry)
    }

    /// A line of the sealed sheet, as eyes read it.
    fn paper(&self, line: usize) -> Result<String> {
        let page = fs_err::read_to_string(self.officer_file("suzuki.html"))?;
        let found = page.lines().find_map(|text| {
            let mut words = text.split_whitespace();
            (words.next()? == line.to_string()).then(|| words.next().map(str::to_owned)).flatten()
        });
        found.filter(|code| code.len() == 14).ok_or(missing("a line of the sheet"))
    }
}
