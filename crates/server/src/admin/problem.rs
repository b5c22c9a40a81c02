//! Errors as RFC 9457 problem details.

use axum::{
    Json,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use kuramori_model::fault::{Fault, Kind, chain};
use serde::{Deserialize, Serialize};

use crate::ServerError;

/// One problem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// One sentence with all causes.
    pub title: String,
    /// Stable code.
    pub code: String,
    /// What the caller can do.
    pub kind: Kind,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit code of a command that ends with it.
    pub exit_code: u8,
}

impl<E: Into<ServerError>> From<E> for Problem {
    fn from(error: E) -> Self {
        let error = error.into();
        let code = error.code();
        let status = match (code, error.kind()) {
            ("catalog.no-such", _) => StatusCode::NOT_FOUND,
            ("catalog.exists" | "catalog.changed" | "catalog.in-use" | "server.exists", _) => {
                StatusCode::CONFLICT
            }
            ("catalog.disk-full" | "repo.full", _) => StatusCode::INSUFFICIENT_STORAGE,
            (_, Kind::Retry) => StatusCode::SERVICE_UNAVAILABLE,
            (_, Kind::Fix) => StatusCode::BAD_REQUEST,
            (_, Kind::Refused) => StatusCode::FORBIDDEN,
            (_, Kind::Damaged | Kind::Bug) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status: status.as_u16(),
            title: chain(&error),
            code: code.to_owned(),
            kind: error.kind(),
            hint: error.hint(),
            exit_code: error.exit() as u8,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(code = self.code, "{}", self.title);
        }
        (status, [(CONTENT_TYPE, "application/problem+json")], Json(self)).into_response()
    }
}
