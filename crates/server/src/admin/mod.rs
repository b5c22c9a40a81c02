//! The admin API: JSON over HTTP on a unix socket that only the server's user (and root) can open.
//!
//! | method | path | what |
//! |---|---|---|
//! | GET | `/v1/status` | the first screen's facts |
//! | GET POST | `/v1/systems` | list; register (answers the client's credentials once) |
//! | POST | `/v1/imports` | take over an existing restic repository with its history |
//! | GET PUT DELETE | `/v1/systems/{id}` | show; edit (`?version=`); remove |
//! | GET POST | `/v1/runs` | list (`?system=&open=&before=&limit=`); run a backup now (202) |
//! | GET | `/v1/runs/{number}` | one run with its progress |
//! | POST | `/v1/runs/{number}/cancel` | ask it to stop |
//! | GET | `/v1/points` | restore points (`?system=&place=primary\|vault`) |
//! | GET | `/v1/retention/{id}` | what the policy keeps and would remove now |
//! | GET | `/v1/alarms`, `/v1/events`, `/v1/windows`, `/v1/vaults`, `/v1/jumps` | lists |
//! | GET | `/v1/evidence` | the present state as one HTML file (`?lang=ja\|en`) |
//! | POST | `/v1/alarms/{id}/take` | say who takes care (`{"by":"…"}`) |
//! | POST | `/v1/vaults` | introduce a vault, write its folder |
//! | POST | `/v1/judge`, `/v1/export`, `/v1/notices/test` | do it now |
//! | GET | `/v1/recovery/{id}` | restore points, measured times, profile: what a restore is planned from |
//! | POST | `/v1/recovery/{id}/key` | the repository's key for one plan or restore; written down first |
//! | POST | `/v1/recovery/{id}/ended` | how a restore ended |
//! | GET PUT | `/v1/recovery/{id}/profile` | how the system is brought up |
//! | GET POST | `/v1/drills` | list (`?system=&limit=`); hold one now, answers when it has ended |
//! | GET | `/v1/drills/{number}` | a drill with its page of evidence (`?lang=ja\|en`) |
//! | POST | `/v1/drills/automatic` | whether drills run by themselves |
//! | GET POST | `/v1/exercises` | records of exercises, newest first; write one down (`?lang=ja\|en` gives its page) |
//! | GET | `/v1/runbook` | the runbook as HTML, text and facts (`?lang=ja\|en`) |
//! | GET | `/v1/agents` | agents with their certificates and what they declare |
//! | POST | `/v1/agents/{name}/invite` | a token to enrol it with, once (`{"hours":1}`) |
//! | POST | `/v1/agents/{name}/revoke` | none of its certificates counts any more |
//! | POST | `/v1/agents-authority/rotate`, `/v1/agents-authority/retire` | a new authority; end the trust in older ones (`{"force":false}`) |
//! | POST | `/v1/time/confirm` | a person says that the clock is right |
//!
//! Errors are RFC 9457 problem details with `code`, `kind`, `hint` and `exit_code`.
//!
//! **Invariant:** handlers hold no logic; they call what the console and the scheduler call.

mod agents;
mod drills;
mod problem;
mod recovery;
mod register;
mod work;

use std::path::Path;

use axum::{
    Json, Router,
    routing::{get, post},
};
use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

use crate::{App, ServerError, error::Result};

pub use problem::Problem;
pub use register::Added;

type Answer<T> = std::result::Result<Json<T>, Problem>;

/// The routes.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(work::status))
        .route("/v1/systems", get(register::list).post(register::add))
        .route("/v1/systems/{id}", get(register::show).put(register::edit).delete(register::remove))
        .route("/v1/imports", post(register::import))
        .route("/v1/runs", get(work::runs).post(work::start))
        .route("/v1/runs/{number}", get(work::run))
        .route("/v1/runs/{number}/cancel", post(work::cancel))
        .route("/v1/points", get(work::points))
        .route("/v1/retention/{id}", get(work::retention))
        .route("/v1/alarms", get(work::alarms))
        .route("/v1/alarms/{id}/take", post(work::take))
        .route("/v1/events", get(work::events))
        .route("/v1/windows", get(work::windows))
        .route("/v1/vaults", get(register::vaults).post(register::enrol))
        .route("/v1/evidence", get(work::evidence))
        .route("/v1/judge", post(work::judge))
        .route("/v1/export", post(work::export))
        .route("/v1/notices/test", post(work::test_notice))
        .route("/v1/jumps", get(work::jumps))
        .route("/v1/time/confirm", post(work::confirm_time))
        .route("/v1/recovery/{id}", get(recovery::offer))
        .route("/v1/recovery/{id}/key", post(recovery::key))
        .route("/v1/recovery/{id}/ended", post(recovery::ended))
        .route("/v1/recovery/{id}/profile", get(recovery::profile).put(recovery::set_profile))
        .route("/v1/drills", get(drills::list).post(drills::hold))
        .route("/v1/drills/automatic", post(drills::automatic))
        .route("/v1/drills/{number}", get(drills::page))
        .route("/v1/exercises", get(drills::exercises).post(drills::exercise))
        .route("/v1/runbook", get(drills::runbook))
        .route("/v1/agents", get(agents::list))
        .route("/v1/agents/{name}/invite", post(agents::invite))
        .route("/v1/agents/{name}/revoke", post(agents::revoke))
        .route("/v1/agents-authority/rotate", post(agents::rotate))
        .route("/v1/agents-authority/retire", post(agents::retire))
        .with_state(app)
}

/// Listens on the socket. Its mode is 0600 from the first moment on; a dead server's socket is replaced, a
/// living one's is not.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let wrong = ServerError::file("listen on the admin socket");
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ServerError::SocketTaken(path.to_owned()));
        }
        fs_err::remove_file(path).map_err(&wrong)?;
    }
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent).map_err(&wrong)?;
    }
    let bind = || -> rustix::io::Result<_> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        // The kernel gives the new file the socket's mode, so nobody can slip in before a chmod.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 64)?;
        Ok(socket)
    };
    let named = |error: rustix::io::Errno| {
        let error = std::io::Error::from(error);
        wrong(std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    UnixListener::from_std(bind().map_err(named)?.into()).map_err(&wrong)
}
