//! The page in a real browser: its own script renews it, the strict policy lets it, nothing else loads.
//! `KURAMORI_SCREENSHOTS=folder` keeps pictures for people to look at.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kuramori_model::finding::Finding;
use kuramori_server::{
    config::Language,
    console::{self, Facts},
    facts::{Status, System},
    lang::Catalogue,
};
use support::Fixed;

/// The first look is good, every later one is bad: a page that shows the bad one has renewed itself.
#[derive(Debug, Default)]
struct Turning(AtomicUsize);

impl Facts for Turning {
    fn status(&self) -> Pin<Box<dyn Future<Output = Result<Status, String>> + Send + '_>> {
        let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move { Ok(if first { support::good() } else { support::bad() }) })
    }

    fn word(&self, finding: &Finding, systems: &[System], catalogue: &Catalogue) -> (String, String) {
        Fixed(None).word(finding, systems, catalogue)
    }
}

async fn start(facts: Arc<dyn Facts>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = console::router(facts, Language::Ja, jiff::tz::TimeZone::get("Asia/Tokyo").unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn browse(address: SocketAddr, path: &str, extra: Vec<String>) -> Option<String> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let profile = tempfile::tempdir().unwrap();
        let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
        browser::chromium(address, &path, profile.path(), &extra)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_renews_itself_in_chromium() {
    let facts = Arc::new(Turning::default());
    let address = start(facts.clone()).await;
    // Virtual time runs the page's timers as fast as the answers come.
    let extra = vec!["--dump-dom".to_owned(), "--virtual-time-budget=20000".to_owned()];
    let Some(dom) = browse(address, "/?lang=ja", extra).await else {
        eprintln!("chromium is not installed; not tested");
        return;
    };
    assert!(facts.0.load(Ordering::SeqCst) > 1, "the script never asked again");
    assert!(dom.contains("眼科の復元点が隔離保管庫にありません"), "{dom}");
    assert!(
        dom.contains("<body class=\"level-danger\">")
            && dom.contains("section id=\"verdict\" class=\"verdict danger\"")
    );
    // `hidden` stays: the server did answer.
    assert!(dom.contains("role=\"alert\" hidden"), "{dom}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_for_people() {
    let Some(folder) = std::env::var_os("KURAMORI_SCREENSHOTS") else { return };
    let folder = std::path::PathBuf::from(folder);
    for (name, status, path, size, more) in [
        ("good-ja", support::good(), "/?lang=ja", "1280,1500", ""),
        ("bad-ja", support::bad(), "/?lang=ja", "1280,2000", ""),
        ("bad-en", support::bad(), "/?lang=en", "1280,2000", ""),
        ("bad-dark", support::bad(), "/?lang=ja", "1280,2000", "--blink-settings=preferredColorScheme=0"),
        ("bad-narrow", support::bad(), "/?lang=ja", "520,2600", ""),
        ("empty-ja", support::empty(), "/?lang=ja", "1280,1200", ""),
    ] {
        let address = start(Arc::new(Fixed(Some(status)))).await;
        let file = folder.join(format!("{name}.png"));
        let mut extra = vec![format!("--screenshot={}", file.display()), format!("--window-size={size}")];
        extra.extend((!more.is_empty()).then(|| more.to_owned()));
        browse(address, path, extra).await.expect("chromium");
        let pdf = vec![format!("--print-to-pdf={}", folder.join(format!("{name}.pdf")).display())];
        browse(address, path, pdf).await.expect("chromium");
    }
}
