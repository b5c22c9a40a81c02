//! The vault without the rest of the program: for tests that kill it, and for whoever wants to see one step.
//!
//! `kuramori-vault-exercise pull|verify|run CONFIG`, `seed CONFIG DIR`, `puller`.

use std::{io::Write, path::Path, sync::Arc};

use kuramori_model::clock::{SystemClock, SystemRandom};
use kuramori_repo::Cancel;
use kuramori_vault::{Config, Error, Result, Vault, control::Order};

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match act(&words) {
        Ok(value) => {
            let _ = writeln!(std::io::stdout(), "{value}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", kuramori_model::fault::chain(&error));
            std::process::ExitCode::from(kuramori_model::fault::Fault::exit(&error) as u8)
        }
    }
}

fn act(words: &[&str]) -> Result<serde_json::Value> {
    let order = match words {
        ["puller"] => {
            kuramori_vault::puller::child::run().map_err(Error::io("speak with the vault"))?;
            return Ok(serde_json::Value::Null);
        }
        ["pull", _] => Order::Pull { max_seconds: None, request: None, proposer: String::new() },
        ["verify", _] => Order::Verify {},
        ["seed", _, from] => Order::Seed { from: (*from).into() },
        ["run", config] => {
            open(config)?.run(&Cancel::default())?;
            return Ok(serde_json::Value::Null);
        }
        _ => {
            return Err(Error::Invalid("pull|verify|run CONFIG, seed CONFIG DIR, puller".into()));
        }
    };
    open(words[1])?.obey(order, &Cancel::default())
}

fn open(config: &str) -> Result<Vault> {
    Vault::open(Config::read(Path::new(config))?, Arc::new(SystemClock), Arc::new(SystemRandom))
}
