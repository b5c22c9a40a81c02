//! An upload's way between the network, the quota and the disk.

use std::{io, path::Path};

use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
};
use tokio::sync::mpsc;

use super::{DRAIN, Server};
use crate::{
    Kind, Login, Outcome, Role,
    connection::{Cut, Intake},
    name::File,
    reply::{Reply, Report, plain, text},
    upload::{self, NotStored, Piece, Stored},
    usage::Reserved,
};

/// Pieces of an upload that wait for the disk; a piece is at most the connection's read buffer.
const WAITING: usize = 16;

/// Why an upload was not stored.
#[derive(Debug)]
enum Refusal {
    TooLarge,
    OverQuota,
    Slow,
    Not(NotStored),
}

impl From<NotStored> for Refusal {
    fn from(not: NotStored) -> Self {
        Self::Not(not)
    }
}

impl Server {
    pub(super) async fn put(
        &self,
        request: Request<Incoming>,
        report: Report,
        login: &Login,
        file: File,
    ) -> Response<Reply> {
        let limits = self.config.limits;
        let largest = match file.kind() {
            Kind::Data => limits.pack,
            Kind::Index | Kind::Snapshots => limits.document,
            Kind::Config | Kind::Keys | Kind::Locks => limits.small,
        };
        let announced = request.body().size_hint().exact();
        let mut intake = Intake::new(request.into_body(), limits.stall, limits.floor, largest.0);
        let result = match announced {
            Some(size) if size > largest.0 => Err(Refusal::TooLarge),
            _ => self.take(&mut intake, &report, login, file, announced).await,
        };
        let got = intake.got();
        let (outcome, status, why) = match result {
            Ok(Stored::New) => (Outcome::Done, StatusCode::OK, ""),
            Ok(Stored::Present) => (Outcome::Present, StatusCode::OK, ""),
            Err(Refusal::TooLarge) => (Outcome::Bad, StatusCode::PAYLOAD_TOO_LARGE, "too large for its kind"),
            Err(Refusal::OverQuota) => {
                (Outcome::Full, StatusCode::INSUFFICIENT_STORAGE, "the quota is used up")
            }
            Err(Refusal::Slow) => (Outcome::Broken, StatusCode::REQUEST_TIMEOUT, "too slow"),
            Err(Refusal::Not(not)) => match not {
                NotStored::WrongHash => {
                    (Outcome::Bad, StatusCode::BAD_REQUEST, "the bytes do not have this hash")
                }
                NotStored::Exists => {
                    (Outcome::Refused, StatusCode::FORBIDDEN, "already there with other bytes")
                }
                NotStored::NoRepository => (Outcome::Missing, StatusCode::NOT_FOUND, "no such repository"),
                NotStored::Full => (Outcome::Full, StatusCode::INSUFFICIENT_STORAGE, "the disk is full"),
                NotStored::Abandoned => (Outcome::Broken, StatusCode::BAD_REQUEST, "the body ended early"),
                NotStored::Io(error) => {
                    (Outcome::Failed(error.to_string()), StatusCode::INTERNAL_SERVER_ERROR, "the disk failed")
                }
            },
        };
        report.send(outcome, got);
        if why.is_empty() {
            return plain(status);
        }
        intake.drain(DRAIN).await;
        text(status, why)
    }

    /// Hands a body to the disk's thread.
    async fn take(
        &self,
        intake: &mut Intake,
        report: &Report,
        login: &Login,
        file: File,
        announced: Option<u64>,
    ) -> Result<Stored, Refusal> {
        let Some(repository) = report.event.repository.clone() else {
            return Err(Refusal::Not(NotStored::NoRepository));
        };
        let folder = self.shelf.repository(&repository);
        if !folder.is_dir() {
            return Err(Refusal::Not(NotStored::NoRepository));
        }
        let quota = match &login.role {
            Role::Append { quota, .. } => quota.map(|quota| quota.0),
            _ => None,
        };
        // What is there already takes no room: a repeated upload succeeds on a full disk too.
        let present = tokio::fs::try_exists(folder.join(file.path())).await.map_err(NotStored::from)?;
        let quota = quota.filter(|_| !present);
        // Locks stay possible on a full disk: without them nobody could even check the repository.
        if file.kind() != Kind::Locks && !present {
            let free = self.shelf.free(&repository).map_err(NotStored::from)?;
            if free.saturating_sub(announced.unwrap_or(0)) < self.config.limits.keep_free.0 {
                return Err(Refusal::Not(NotStored::Full));
            }
        }
        let mut reserved = self.usage.open(&repository, &folder, quota).await.map_err(NotStored::from)?;
        self.raise(&mut reserved, announced.unwrap_or(1), &folder).await?;

        let (send, receive) = mpsc::channel(WAITING);
        let writer = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || upload::store(&folder, file, receive))
        };
        let fed: Result<(), Refusal> = loop {
            let piece = match intake.next().await {
                Ok(Some(bytes)) => bytes,
                // A writer that has ended already says why below.
                Ok(None) => {
                    let _ = send.send(Piece::End).await;
                    break Ok(());
                }
                Err(Cut::Gone) => break Err(NotStored::Abandoned.into()),
                Err(Cut::Slow) => break Err(Refusal::Slow),
                Err(Cut::TooLarge) => break Err(Refusal::TooLarge),
            };
            if let Err(refusal) = self.raise(&mut reserved, intake.got(), &folder).await {
                break Err(refusal);
            }
            if send.send(Piece::Data(piece)).await.is_err() {
                break Ok(());
            }
        };
        drop(send);
        let written = writer.await.unwrap_or_else(|error| Err(NotStored::Io(io::Error::other(error))));
        fed?;
        let stored = written?;
        if stored == Stored::New {
            reserved.stored(intake.got());
        }
        Ok(stored)
    }

    async fn raise(&self, reserved: &mut Reserved, size: u64, folder: &Path) -> Result<(), Refusal> {
        match self.usage.raise(reserved, size, folder).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::OverQuota),
            Err(error) => Err(NotStored::from(error).into()),
        }
    }
}
