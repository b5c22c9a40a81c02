//! `kuramori audit`: whether the tamper-evident log is what was written, and its entries for others to read.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
};

use clap::Subcommand;
use kuramori_audit::{Finding, Log, SignedNote, Verifier, verify};
use kuramori_model::fault::Exit;
use serde_json::json;

use super::server::{File, load};
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

/// The tamper-evident log: the server's, or that of a gate or a vault in a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: File,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether every entry is what was written; needs nothing but the log and public keys
    Verify(Verify),
    /// Write the entries as JSON lines
    Export(Export),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The log's folder; by default the server's own
    folder: Option<PathBuf>,
    /// The public key of who wrote the log; by default the server's own
    #[arg(long, value_name = "KEY", requires = "folder")]
    key: Option<String>,
    /// Public key of another host that cosigns checkpoints; may be given several times
    #[arg(long, value_name = "KEY")]
    witness: Vec<String>,
    /// A cosigned checkpoint that the other host kept; may be given several times
    #[arg(long, value_name = "FILE")]
    note: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Export {
    /// The log's folder; by default the server's own
    folder: Option<PathBuf>,
    /// Only entries from this number on
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    from: u64,
    /// Where to write it; by default standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::Verify(asked) => check(&args.file, asked, ui),
        Verb::Export(asked) => export(&args.file, asked, ui),
    }
}

fn own(file: &File) -> Result<PathBuf, Failure> {
    Ok(load(file)?.data.join(kuramori_server::AUDIT.0))
}

fn check(file: &File, asked: &Verify, ui: &Ui) -> Outcome {
    let (folder, key) = match (&asked.folder, &asked.key) {
        (Some(folder), Some(key)) => (folder.clone(), key.parse::<Verifier>()?),
        (Some(_), None) => {
            let why = "name the key of who wrote this log with --key".to_owned();
            return Err(CliError::Argument(why).into());
        }
        (None, _) => (own(file)?, kuramori_server::audit_key(&load(file)?)?),
    };
    let witnesses = asked.witness.iter().map(|key| key.parse()).collect::<Result<Vec<Verifier>, _>>()?;
    let mut notes = Vec::new();
    for note in &asked.note {
        notes.push(SignedNote::parse(&fs_err::read_to_string(note).map_err(CliError::File)?)?);
    }
    let found = verify(&folder, &key, &witnesses, &notes)?;
    ui.data(
        &json!({ "folder": folder, "key": key.to_string(), "clean": found.clean(), "verification": found }),
    );
    ui.line(format!("{}: {}", ui.pick("証明できた記録", "entries proven"), found.entries));
    ui.line(format!("{}: {}", ui.pick("ルート", "root"), found.root));
    match found.cosigned {
        Some(size) => ui.line(format!(
            "{}: {size}",
            ui.pick("他のホストが連署したところまで", "cosigned by another host up to")
        )),
        None => ui.line(ui.pick(
            "他のホストの連署はありません。末尾の切り取りは見つけられません。",
            "No other host has cosigned it: entries cut off at the end would not be found.",
        )),
    }
    for finding in &found.findings {
        ui.line(worded(finding, ui));
    }
    Ok(if found.clean() { Exit::Done } else { Exit::Damaged })
}

fn worded(finding: &Finding, ui: &Ui) -> String {
    match finding {
        Finding::Changed { number, what, after } => format!(
            "{} {number}: {what}; {} {after}",
            ui.pick("書き換えられた記録", "changed entry"),
            ui.pick("その後の証明できない行", "unproven lines after it")
        ),
        Finding::TornLine { bytes } => {
            format!(
                "{}: {bytes}",
                ui.pick("最後の行が途中で切れている(バイト)", "the last line is torn (bytes)")
            )
        }
        Finding::Truncated { cosigned } => format!(
            "{}: {cosigned}",
            ui.pick("連署済みの件数より短い", "shorter than what was cosigned, in entries")
        ),
        Finding::Forked { cosigned } => format!(
            "{}: {cosigned}",
            ui.pick("連署済みの履歴と異なる", "another history than the one that was cosigned, at entry")
        ),
        Finding::BadNote { note } => {
            format!(
                "{}: {note}",
                ui.pick("連署として正しくない覚え書き", "not a cosigned checkpoint of this log")
            )
        }
    }
}

fn export(file: &File, asked: &Export, ui: &Ui) -> Outcome {
    let folder = match &asked.folder {
        Some(folder) => folder.clone(),
        None => own(file)?,
    };
    let mut out: BufWriter<Box<dyn Write>> = BufWriter::new(match &asked.out {
        Some(path) => Box::new(fs_err::File::create(path).map_err(CliError::File)?),
        None => Box::new(std::io::stdout().lock()),
    });
    let entries = Log::each(&folder, asked.from, &mut |entry| {
        let line = serde_json::to_string(&entry).map_err(|error| CliError::Argument(error.to_string()))?;
        writeln!(out, "{line}").map_err(CliError::File)?;
        Ok::<_, Failure>(())
    })?;
    out.flush().map_err(CliError::File)?;
    drop(out);
    if asked.out.is_some() {
        ui.data(&json!({ "folder": folder, "file": asked.out, "entries": entries }));
    }
    ui.note(format!("{}: {entries}", ui.pick("書き出した記録", "entries written")));
    Ok(Exit::Done)
}
