//! A share on paper: seven-bit letters in short lines, each with its own check, in Japanese and English.
//!
//! ```text
//!  1  ABCDE FGHIJ KLMNO PQRST  = WXYZ
//!  │  └ 20 letters of base32 (100 bits) ┘  └ 20 bits of SHA-256 over set, share, line and letters
//! ```
//! The identity's text has 75 bytes, hence 120 letters in six lines and no padding: whoever has no program
//! of ours types the 120 letters into `base32 -d`.

use std::fmt::Write;

use zeroize::Zeroizing;

use crate::{EscrowError, Fingerprint, Recipient, Result, Share, Split, base32};

const LETTERS: usize = 20;

/// The language of the instructions; the lines of letters are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// 日本語
    Japanese,
    /// English
    English,
}

/// What a sheet says besides its share.
#[derive(Debug, Clone)]
pub struct Sheet<'a> {
    /// The share.
    pub share: &'a Share,
    /// How many there are and how many join.
    pub split: Split,
    /// The recovery identity's public half: its fingerprint names the set.
    pub recipient: &'a Recipient,
    /// Whose it is: the hospital's name.
    pub hospital: &'a str,
    /// When it was made, for people.
    pub made: &'a str,
}

impl Sheet<'_> {
    /// The text to print, on plain paper in a fixed-width font.
    pub fn text(&self, language: Language) -> Zeroizing<String> {
        let (number, Split { needed, of }) = (self.share.number, self.split);
        let set = self.recipient.fingerprint();
        let file = self.share.file_name("recovery");
        let mut text = Zeroizing::new(String::with_capacity(2048));
        let head = match language {
            Language::Japanese => format!(
                "蔵守 復旧用身元 分割シート {number}/{of}\n\
                 {hospital}  作成日 {made}\n\n\
                 このシート {needed} 枚で、全部門システムのバックアップを復元できます。\n\
                 1 枚では何も分かりません。{of} 枚を別々の場所に保管し、写しを作らないでください。\n",
                hospital = self.hospital,
                made = self.made,
            ),
            Language::English => format!(
                "Kuramori recovery identity, share {number} of {of}\n\
                 {hospital}  made {made}\n\n\
                 Any {needed} of these sheets restore the backups of every departmental system.\n\
                 One sheet alone tells nothing. Keep the {of} sheets in different places; make no copies.\n",
                hospital = self.hospital,
                made = self.made,
            ),
        };
        text.push_str(&head);
        let letters = Zeroizing::new(base32::encode(&self.share.bytes));
        let lines = letters.len().div_ceil(LETTERS);
        let _ = write!(text, "\nKURAMORI-SHARE {number} {needed}/{of} {lines} {set}\n\n");
        for (line, chunk) in letters.as_bytes().chunks(LETTERS).enumerate() {
            let chunk = String::from_utf8_lossy(chunk);
            let groups: Vec<&str> =
                (0..chunk.len()).step_by(5).map(|at| &chunk[at..chunk.len().min(at + 5)]).collect();
            let check = check(set.as_str(), number, line + 1, &chunk);
            let _ = writeln!(text, "{:2}  {:<23}  = {check}", line + 1, groups.join(" "));
        }
        let foot = match language {
            Language::Japanese => format!(
                "\n蔵守がない場合 (Debian: coreutils, libgfshare-bin, age):\n\
                 1. 各行の英字 (= の左) をつなげて base32 -d に渡し、結果を {file} に保存する\n\
                 2. {needed} 枚分そろえて gfcombine -o recovery.txt recovery.*\n\
                 3. age -d -i recovery.txt 鍵ファイル.age\n\
                 0, 1, 8, 9 は使われません。= の右の 4 文字は行の検算用です。\n"
            ),
            Language::English => format!(
                "\nWithout Kuramori (Debian: coreutils, libgfshare-bin, age):\n\
                 1. join the letters left of the = of all lines, give them to base32 -d, save as {file}\n\
                 2. with {needed} sheets: gfcombine -o recovery.txt recovery.*\n\
                 3. age -d -i recovery.txt KEYFILE.age\n\
                 0, 1, 8 and 9 do not occur. The 4 letters right of the = check the line.\n"
            ),
        };
        text.push_str(&foot);
        text
    }
}

/// Reads a sheet that was typed in: needs the line `KURAMORI-SHARE …` and the numbered lines, in any case
/// and spacing. Gives the share, the split and the set's fingerprint.
pub fn read_sheet(text: &str) -> Result<(Share, Split, String)> {
    let bad = |why: &str| EscrowError::BadSheet(why.to_owned());
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("KURAMORI-SHARE"));
    let head = lines.next().ok_or_else(|| bad("the line `KURAMORI-SHARE` is missing"))?;
    let words: Vec<&str> = head.split_whitespace().collect();
    let [_, number, split, count, set] = words[..] else {
        return Err(bad("the line `KURAMORI-SHARE` is incomplete"));
    };
    let number: u8 = number.parse().map_err(|_| bad("the share's number cannot be read"))?;
    let split = split
        .split_once('/')
        .and_then(|(needed, of)| Some(Split { needed: needed.parse().ok()?, of: of.parse().ok()? }))
        .ok_or_else(|| bad("how many shares join cannot be read"))?;
    let count: usize = count.parse().map_err(|_| bad("the number of lines cannot be read"))?;
    let mut letters = Zeroizing::new(String::new());
    let mut expected = 1;
    for line in lines {
        let Some((left, given)) = line.split_once('=') else { continue };
        let mut words = left.split_whitespace();
        let Some(line) = words.next().and_then(|n| n.parse::<usize>().ok()) else { continue };
        if line != expected {
            return Err(EscrowError::BadLine { line: expected });
        }
        let chunk: String = words.collect::<String>().to_uppercase();
        if !meant(given).eq_ignore_ascii_case(&check(set, number, expected, &meant(&chunk))) {
            return Err(EscrowError::BadLine { line: expected });
        }
        letters.push_str(&chunk);
        expected += 1;
    }
    let bytes = base32::decode(&letters).ok_or_else(|| bad("a letter does not occur in base32"))?;
    if expected != count + 1 {
        return Err(EscrowError::BadLine { line: expected });
    }
    Ok((Share { number, bytes: Zeroizing::new(bytes) }, split, set.to_owned()))
}

/// The letters that were meant: without spaces, and with the digits that base32 does not have replaced.
fn meant(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| match c.to_ascii_uppercase() {
            '0' => 'O',
            '1' => 'I',
            '8' => 'B',
            other => other,
        })
        .collect()
}

fn check(set: &str, number: u8, line: usize, letters: &str) -> String {
    Fingerprint::of(format!("{set}/{number}/{line}/{letters}").as_bytes()).as_str()[..4].to_owned()
}
