//! `kuramori repo`: the engine by itself, without a server, in the words of the tools that people know.

mod backup;
mod care;
mod disk;
mod key;
mod look;
mod mount;
pub(crate) mod open;
mod restore;
mod serve;

use clap::Subcommand;

use crate::{Outcome, ui::Ui};

/// The repository engine by itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new repository
    Init(open::Place),
    /// Back up files and folders, or the output of a command
    Backup(backup::Args),
    /// Back up a disk that an NBD server offers, whole or as what changed
    BackupDisk(disk::BackupDisk),
    /// List the restore points
    Snapshots(look::Snapshots),
    /// List the items of a restore point
    Ls(look::Ls),
    /// Restore a restore point or a part of it
    Restore(restore::Args),
    /// Check that everything can be restored
    Check(care::Check),
    /// Remove restore points by a policy
    Forget(care::Forget),
    /// Remove data that no restore point needs
    Prune(care::Prune),
    /// Copy a repository to another place, without its password
    Mirror(care::Mirror),
    /// Manage passwords
    Key(key::Args),
    /// Remove locks that were left behind
    Unlock(care::Unlock),
    /// Show sizes and counts
    Stats(look::Stats),
    /// Show restore points as folders, by system and time
    Mount(mount::Args),
    /// Serve a disk of a restore point by NBD, read-only or with an overlay for writes
    Nbd(disk::Nbd),
    /// Serve repositories by restic's REST protocol over TLS
    Serve(serve::Args),
    /// Make a certificate authority and a server certificate for `serve`
    Certificate(serve::Certificate),
    /// Print a login for `serve`'s file
    Login(serve::Login),
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::Init(args) => open::init(args, ui),
        Verb::Backup(args) => backup::run(args, ui),
        Verb::BackupDisk(args) => disk::backup_disk(args, ui),
        Verb::Snapshots(args) => look::snapshots(args, ui),
        Verb::Ls(args) => look::ls(args, ui),
        Verb::Restore(args) => restore::run(args, ui),
        Verb::Check(args) => care::check(args, ui),
        Verb::Forget(args) => care::forget(args, ui),
        Verb::Prune(args) => care::prune(args, ui),
        Verb::Mirror(args) => care::mirror(args, ui),
        Verb::Key(args) => key::run(args, ui),
        Verb::Unlock(args) => care::unlock(args, ui),
        Verb::Stats(args) => look::stats(args, ui),
        Verb::Mount(args) => mount::run(args, ui),
        Verb::Nbd(args) => disk::nbd(args, ui),
        Verb::Serve(args) => serve::run(args, ui),
        Verb::Certificate(args) => serve::certificate(args, ui),
        Verb::Login(args) => serve::login(args, ui),
    }
}
