//! Sealed sheets of one-time codes: how somebody approves with paper alone.
//!
//! ```text
//! seed (32 random bytes, never stored) ── HMAC-SHA256(seed, line) ──▶ 60 bits in twelve letters
//!   on paper:      7  ABCD-EFGH-JKMN
//!   in register:   salt, scrypt(code, salt)          one line, one use, one request
//! ```
//! An officer reads the request's short code back to whoever types at the vault, and then the next line of the
//! sheet. The vault compares the short code first, so that a line is used up only for the request that the
//! officer meant. Sixty bits behind a slow hash cannot be guessed; wrong ones raise an alarm.

use aws_lc_rs::hmac;
use kuramori_escrow::{Language, page};
use kuramori_model::approval::{Refusal, heard, spell};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    register::Code,
    vault::Vault,
};

/// Lines of a sheet.
pub const LINES: u32 = 12;
/// Letters of a code: sixty bits.
const LETTERS: usize = 12;

/// A sheet that was just made. The codes exist on it and nowhere else.
#[derive(Serialize, Deserialize)]
pub struct Printed {
    /// Whose.
    pub officer: String,
    /// Which vault's.
    pub vault: String,
    /// Its number; the ones before ended with it.
    pub sheet: u32,
    /// The codes in the order of their lines.
    pub codes: Vec<String>,
}

impl std::fmt::Debug for Printed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Printed(sheet {} of {})", self.sheet, self.officer)
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.codes);
    }
}

impl Printed {
    /// The page to print and seal, with its QR code.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no QR code holds it.
    pub fn page(&self, language: Language) -> Result<Zeroizing<String>> {
        let Self { officer, vault, sheet, codes } = self;
        let lines: Vec<String> =
            codes.iter().enumerate().map(|(at, code)| format!("  {:>2}   {code}   [ ]", at + 1)).collect();
        let lines = lines.join("\n");
        let (heading, text) = match language {
            Language::Japanese => (
                format!("蔵守 承認用封緘シート  {officer}  第 {sheet} 号"),
                format!(
                    "保管庫: {vault}\n\n\
                     このシートは {officer} 本人の承認です。封をして保管し、写しを作らないでください。\n\
                     新しいシートを発行すると、このシートは使えなくなります。\n\n\
                     承認のしかた\n\
                     1. 保管庫の操作者から、何を承認するのか(復元先、システム、時間)と短い符号を聞く。\n\
                     2. 内容に納得できたら、短い符号を復唱し、未使用の行の番号と符号を伝える。\n\
                     3. 使った行に印を付ける。各行は一度だけ、その承認だけに使えます。\n\n\
                     保管庫での入力\n\
                     kuramori vault approve 依頼番号 --officer '{officer}'\n\
                     (復唱された短い符号、続いて 行番号-符号 を尋ねられます)\n\n{lines}\n"
                ),
            ),
            Language::English => (
                format!("Kuramori sealed approval sheet  {officer}  no. {sheet}"),
                format!(
                    "Vault: {vault}\n\n\
                     This sheet is the approval of {officer}. Keep it sealed; make no copies.\n\
                     A new sheet ends this one.\n\n\
                     To approve\n\
                     1. Hear from whoever is at the vault what is asked (receiver, systems, time) and its short code.\n\
                     2. If you agree, read the short code back, then the number and the code of an unused line.\n\
                     3. Mark the line. Each counts once, for that request only.\n\n\
                     To be typed at the vault\n\
                     kuramori vault approve REQUEST --officer '{officer}'\n\
                     (asks for the short code as it was read back, then for LINE-CODE)\n\n{lines}\n"
                ),
            ),
        };
        let all: Vec<String> =
            codes.iter().enumerate().map(|(at, code)| format!("{}-{code}", at + 1)).collect();
        let scanned = Zeroizing::new(format!("KURAMORI-SHEET {vault} {officer} {sheet}\n{}", all.join("\n")));
        let made = page(language, &heading, &text, &scanned);
        made.map(Zeroizing::new).map_err(|error| Error::Invalid(kuramori_model::fault::chain(&error)))
    }
}

impl Vault {
    /// Draws the codes, keeps their hashes, gives the codes away.
    pub(super) fn print_sheet(&self, officer: &str) -> Result<Printed> {
        let mut seed = Zeroizing::new([0; 32]);
        self.random.fill(seed.as_mut_slice());
        let key = hmac::Key::new(hmac::HMAC_SHA256, seed.as_slice());
        let sheet = self.register.next_sheet(officer)?;
        let mut printed = Printed {
            officer: officer.to_owned(),
            vault: self.config.vault.name.clone(),
            sheet,
            codes: Vec::new(),
        };
        let mut kept = Vec::new();
        for number in 1..=LINES {
            let letters = spell(hmac::sign(&key, &number.to_be_bytes()).as_ref());
            let letters = &letters[..LETTERS];
            let mut salt = vec![0; 16];
            self.random.fill(&mut salt);
            let hash = slow(letters, &salt)?;
            kept.push(Code { sheet, number, salt, hash, used_for: None });
            printed.codes.push(format!("{}-{}-{}", &letters[..4], &letters[4..8], &letters[8..]));
        }
        self.note(
            "officer.sheet",
            &serde_json::json!({ "officer": officer, "sheet": sheet, "lines": LINES }),
        )?;
        self.register.keep_sheet(officer, &kept)?;
        Ok(printed)
    }

    /// The line that was typed in, if it is on the officer's newest sheet and unused.
    pub(super) fn find_code(&self, officer: &str, typed: &str) -> Result<Code> {
        let wrong = || Error::from(Refusal::Code(officer.to_owned()));
        let (number, code) = typed.trim().split_once(['-', ' ']).ok_or_else(wrong)?;
        let number: u32 = number.trim().parse().map_err(|_| wrong())?;
        let known = self.register.code(officer, number)?.ok_or_else(wrong)?;
        let hash = Zeroizing::new(slow(&heard(code), &known.salt)?);
        if aws_lc_rs::constant_time::verify_slices_are_equal(&hash, &known.hash).is_err() {
            return Err(wrong());
        }
        if known.used_for.is_some() {
            return Err(Refusal::CodeUsed { officer: officer.to_owned(), number }.into());
        }
        Ok(known)
    }
}

/// scrypt with 16 MiB: about a twentieth of a second for a guess.
fn slow(code: &str, salt: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::Invalid("the slow hash refused its parameters".to_owned());
    let cost = scrypt::Params::new(14, 8, 1).map_err(|_| bad())?;
    let mut hash = vec![0; 32];
    scrypt::scrypt(code.as_bytes(), salt, &cost, &mut hash).map_err(|_| bad())?;
    Ok(hash)
}
