//! `kuramori escrow`: the hospital's recovery identity on paper, and back from paper.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use kuramori_escrow::{Identity, Language as Tongue, Sheet, Split, join, read_sheet, split};
use kuramori_model::{
    clock::{Clock, SystemClock, SystemRandom},
    fault::Exit,
};
use serde_json::json;

use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::{Language, Ui},
};

/// The recovery identity's sheets.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Split the recovery identity into five sheets to print; any three bring it back
    Split {
        /// The file that `server init --recovery-out` wrote
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
        /// Folder for the sheets; print them, then remove both
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// The hospital's name on the sheets
        #[arg(long, value_name = "NAME", default_value = "")]
        hospital: String,
    },
    /// Bring the recovery identity back from typed sheets
    Join {
        /// A typed sheet; give three
        #[arg(long, value_name = "FILE", required = true)]
        sheet: Vec<PathBuf>,
        /// Where to write the identity
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::Split { identity, out, hospital } => cut(identity, out, hospital, ui),
        Verb::Join { sheet, out } => back(sheet, out, ui),
    }
}

fn cut(file: &Path, out: &Path, hospital: &str, ui: &Ui) -> Outcome {
    let identity = Identity::read(&fs_err::read_to_string(file).map_err(CliError::File)?)?;
    let (into, recipient) = (Split::default(), identity.recipient());
    let made = SystemClock.now().to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d").to_string();
    fs_err::create_dir_all(out).map_err(CliError::File)?;
    let mut files = Vec::new();
    for share in split(&identity, into, &SystemRandom)? {
        let sheet = Sheet { share: &share, split: into, recipient: &recipient, hospital, made: &made };
        let tongue = match ui.language {
            Language::Ja => Tongue::Japanese,
            Language::En => Tongue::English,
        };
        let path = out.join(format!("sheet-{}.txt", share.number));
        private(&path, sheet.text(tongue).as_bytes())?;
        ui.line(path.display().to_string());
        files.push(path);
    }
    ui.data(&json!({ "sheets": files, "set": recipient.fingerprint().as_str() }));
    ui.note(ui.pick(
        "1 枚ずつ別の人が印刷・保管し、終わったらこのフォルダーと元のファイルを削除してください。",
        "Let different people print and keep one each; then remove this folder and the original file.",
    ));
    Ok(Exit::Done)
}

fn back(sheets: &[PathBuf], out: &Path, ui: &Ui) -> Outcome {
    let (mut shares, mut into, mut set) = (Vec::new(), Split::default(), String::new());
    for file in sheets {
        let (share, split, named) = read_sheet(&fs_err::read_to_string(file).map_err(CliError::File)?)?;
        if !set.is_empty() && set != named {
            let why = format!("`{}` belongs to another set of sheets", file.display());
            return Err(CliError::Argument(why).into());
        }
        (into, set) = (split, named);
        shares.push(share);
    }
    let identity = join(&shares, into)?;
    private(out, format!("{}\n", identity.text().as_str()).as_bytes())?;
    ui.data(&json!({ "recipient": identity.recipient().to_string(), "identity": out }));
    ui.line(format!(
        "{}: {}",
        ui.pick("復旧用身元を書きました", "the recovery identity was written"),
        out.display()
    ));
    Ok(Exit::Done)
}

fn private(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true);
    options.options_mut().mode(0o600);
    let mut file = options.open(path).map_err(CliError::File)?;
    file.write_all(content).map_err(CliError::File)?;
    Ok(())
}
