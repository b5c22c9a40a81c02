//! The console: one read-only page, its facts as JSON, and a sign of life, over plain HTTP.
//!
//! **Invariant:** every route is a `GET` that changes nothing, so a stolen page, a forged link or a foreign
//! site can show at most what the screen shows. Whoever wants to act needs the admin socket.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, REFERRER_POLICY,
            SET_COOKIE, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use jiff::tz::TimeZone;
use kuramori_model::finding::Finding;

use crate::{
    config::Language,
    facts::{Status, System},
    lang::{self, Catalogue},
    page,
};

/// Where the screen's facts come from.
pub trait Facts: std::fmt::Debug + Send + Sync + 'static {
    /// Gathers what is known now. The error is a sentence for the log.
    fn status(&self) -> Pin<Box<dyn Future<Output = Result<Status, String>> + Send + '_>>;

    /// A finding's sentence and next action in the language.
    fn word(&self, finding: &Finding, systems: &[System], catalogue: &Catalogue) -> (String, String);
}

#[derive(Debug, Clone)]
struct Console {
    facts: Arc<dyn Facts>,
    language: Language,
    zone: TimeZone,
}

/// Everything inline is forbidden, and so is every other origin.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The console's routes.
pub fn router(facts: Arc<dyn Facts>, language: Language, zone: TimeZone) -> Router {
    Router::new()
        .route("/", get(screen))
        .route("/api/v1/status", get(status))
        .route("/healthz", get(health))
        .route("/style.css", get(async || fixed("text/css; charset=utf-8", page::STYLE)))
        .route("/live.js", get(async || fixed("text/javascript; charset=utf-8", page::SCRIPT)))
        .route("/icon.svg", get(async || fixed("image/svg+xml", page::ICON)))
        .fallback(nothing)
        .method_not_allowed_fallback(async || StatusCode::METHOD_NOT_ALLOWED)
        .layer(middleware::from_fn(headers))
        .with_state(Console { facts, language, zone })
}

#[derive(Debug, serde::Deserialize)]
struct Asked {
    lang: Option<String>,
}

/// `?lang=`, else the cookie, else what the browser prefers, else the configuration.
fn choose(asked: Option<&str>, headers: &HeaderMap, default: Language) -> Language {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let cookie = || {
        text(COOKIE)?
            .split(';')
            .find_map(|pair| pair.trim().strip_prefix("kuramori_lang="))
            .and_then(lang::parse)
    };
    asked
        .and_then(lang::parse)
        .or_else(cookie)
        .or_else(|| text(ACCEPT_LANGUAGE).and_then(lang::accepted))
        .unwrap_or(default)
}

async fn screen(State(console): State<Console>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    let catalogue = Catalogue::of(choose(asked.lang.as_deref(), &headers, console.language));
    let facts = match console.facts.status().await {
        Ok(facts) => facts,
        Err(error) => return broken(&error),
    };
    let word =
        |finding: &Finding, catalogue: &Catalogue| console.facts.word(finding, &facts.systems, catalogue);
    let mut response = match page::render(&facts, catalogue, &console.zone, &word) {
        Ok(html) => Html(html).into_response(),
        Err(error) => return broken(&error.to_string()),
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Language, Cookie"));
    if let Some(language) = asked.lang.as_deref().and_then(lang::parse) {
        let cookie = match language {
            Language::Ja => "kuramori_lang=ja; Path=/; Max-Age=31536000; SameSite=Strict; HttpOnly",
            Language::En => "kuramori_lang=en; Path=/; Max-Age=31536000; SameSite=Strict; HttpOnly",
        };
        response.headers_mut().insert(SET_COOKIE, HeaderValue::from_static(cookie));
    }
    response
}

async fn status(State(console): State<Console>) -> Response {
    match console.facts.status().await {
        Ok(facts) => Json(facts).into_response(),
        Err(error) => broken(&error),
    }
}

async fn health(State(console): State<Console>) -> Response {
    match console.facts.status().await {
        Ok(_) => "ok\n".into_response(),
        Err(error) => broken(&error),
    }
}

/// The log has the reason; a page that anybody may open does not.
fn broken(error: &str) -> Response {
    tracing::error!(error, "the console cannot gather its facts");
    (StatusCode::SERVICE_UNAVAILABLE, "the catalog cannot be read now; see the server's log\n")
        .into_response()
}

async fn nothing(State(console): State<Console>, headers: HeaderMap) -> Response {
    let catalogue = Catalogue::of(choose(None, &headers, console.language));
    (StatusCode::NOT_FOUND, catalogue.say("not-found")).into_response()
}

fn fixed(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
