//! Backs up local paths into a folder, makes the repository if there is none, and prints the figures:
//! `backup REPO PATH…` with the password in `KURAMORI_PASSWORD`.

use std::{path::PathBuf, sync::Arc};

use kuramori_model::fault::{Fault, chain};
use kuramori_repo::{
    Context, Error, Repository, Secret,
    backup::{Draft, Options},
    local::{Selection, snapshot_paths},
    store::LocalStore,
};

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program's own errors")]
            {
                eprintln!("error: {} ({})", chain(&error), error.code());
                if let Some(hint) = error.hint() {
                    eprintln!("hint: {hint}");
                }
            }
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    let repo = arguments.next().unwrap_or_default();
    let paths: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let password = Secret::new(std::env::var("KURAMORI_PASSWORD").unwrap_or_default());
    let context = Context::system();
    let store = Arc::new(LocalStore::new(repo));
    let begin = context.clock.boot();
    let opened = match Repository::open(Arc::clone(&store) as _, &password, context.clone()) {
        Err(Error::NotFound { .. }) => Repository::create(store, &password, context.clone())?,
        other => other?,
    };
    let repo = opened.index()?;
    let parent = repo.find_parent(&context.hostname, &snapshot_paths(&paths)?)?;
    let level = std::env::var("LEVEL").ok().and_then(|level| level.parse().ok()).unwrap_or(1);
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok());
    let mut backup = repo.backup(Options { parent, level, threads, ..Options::default() })?;
    let paths = backup.add_paths(&paths, &Selection::default())?;
    let draft = Draft {
        hostname: context.hostname.clone(),
        username: context.username.clone(),
        paths,
        ..Draft::default()
    };
    let done = backup.commit(draft)?;
    #[expect(clippy::print_stdout, reason = "a program's own result")]
    {
        println!("{} {:?}", done.id, done.summary);
        println!("{:?} in {:.2?}", done.report, context.clock.boot().saturating_sub(begin));
    }
    Ok(())
}
