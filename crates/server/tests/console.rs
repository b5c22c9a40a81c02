//! The console over real HTTP: what it shows, in which language, and that it can do nothing else.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

mod support;

use std::{net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, Response, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use kuramori_server::{config::Language, console, facts::Status};
use support::Fixed;

async fn start(status: Option<Status>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let zone = jiff::tz::TimeZone::get("Asia/Tokyo").unwrap();
    let router = console::router(Arc::new(Fixed(status)), Language::Ja, zone);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn ask(to: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)]) -> (Response<()>, String) {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, body) =
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
}

async fn page(status: Status, path: &str) -> String {
    let (head, body) = ask(start(Some(status)).await, Method::GET, path, &[]).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert!(!body.contains('⟦'), "a message is missing: {body}");
    body
}

#[tokio::test]
async fn a_good_night_says_so_in_both_languages() {
    let ja = page(support::good(), "/").await;
    assert!(ja.contains("登録した 3 システムすべてを、隔離保管庫から復旧できます。"), "{ja}");
    assert!(ja.contains("lang=\"ja\"") && ja.contains("11月22日 01:28") && ja.contains("対応は不要です。"));
    let en = page(support::good(), "/?lang=en").await;
    assert!(en.contains("All 3 registered systems could come back from the vault."), "{en}");
    assert!(en.contains("lang=\"en\"") && en.contains("22 Nov 01:28") && en.contains("ifAdminStatus 2"));
}

#[tokio::test]
async fn the_japanese_screen_words_every_observation() {
    let gate = |page: &str| {
        let from = page.find("<section id=\"gate\"").unwrap();
        page[from..from + page[from..].find("</section>").unwrap()].to_owned()
    };
    let mut status = support::good();
    let (ja, en) =
        (gate(&page(status.clone(), "/?lang=ja").await), gate(&page(status.clone(), "/?lang=en").await));
    assert!(en.contains("attempts to connect from the production side") && en.contains("no answer"), "{en}");
    for english in ["probe", "production", "answer", "read by"] {
        assert!(!ja.contains(english), "`{english}` in {ja}");
    }
    assert!(ja.contains("拠点側からの接続の試み") && ja.contains("SNMP による読み取り(sw port2)"), "{ja}");
    let probe = status.gate.probe.as_mut().unwrap();
    probe.seen = kuramori_server::facts::Seen::Open;
    probe.detail = "answered: 10.77.9.2:22".to_owned();
    probe.answered = vec!["10.77.9.2:22".to_owned()];
    let ja = gate(&page(status, "/?lang=ja").await);
    assert!(ja.contains("応答あり: 10.77.9.2:22") && !ja.contains("answered"), "{ja}");
}

#[tokio::test]
async fn a_bad_night_names_system_and_next_action() {
    let ja = page(support::bad(), "/?lang=ja").await;
    for text in [
        "危険",
        "眼科の復元点が隔離保管庫にありません",
        "遅延",
        "失敗",
        "要確認",
        "目標超過",
        "source.refused",
        "待機中",
        "41 %",
    ] {
        assert!(ja.contains(text), "{text} is not in {ja}");
    }
    assert!(
        ja.contains("&#60;judge.missed&#62;") && !ja.contains("<judge.missed>"),
        "text from outside is escaped"
    );
    let en = page(support::bad(), "/?lang=en").await;
    for text in
        ["Danger", "Ophthalmology has no restore point in the vault", "Late", "Failed", "over target", "41 %"]
    {
        assert!(en.contains(text), "{text} is not in {en}");
    }
    page(support::empty(), "/?lang=ja").await;
    page(support::empty(), "/?lang=en").await;
}

#[tokio::test]
async fn the_reader_chooses_the_language() {
    let address = start(Some(support::good())).await;
    for (headers, language) in [
        (vec![], "ja"),
        (vec![("accept-language", "fr, en-GB;q=0.8, ja;q=0.5")], "en"),
        (vec![("accept-language", "en"), ("cookie", "a=b; kuramori_lang=ja")], "ja"),
    ] {
        let (_, body) = ask(address, Method::GET, "/", &headers).await;
        assert!(body.contains(&format!("<html lang=\"{language}\">")), "{headers:?}");
    }
    let (head, _) = ask(address, Method::GET, "/?lang=en", &[("cookie", "kuramori_lang=ja")]).await;
    assert!(head.headers()["set-cookie"].to_str().unwrap().starts_with("kuramori_lang=en;"));
    let (head, _) = ask(address, Method::GET, "/?lang=%22%3E%3Cscript%3E", &[]).await;
    assert_eq!((head.status(), head.headers().get("set-cookie")), (StatusCode::OK, None));
}

#[tokio::test]
async fn nothing_on_tcp_changes_anything_and_nothing_foreign_is_loaded() {
    let address = start(Some(support::good())).await;
    let paths = [
        "/",
        "/api/v1/status",
        "/healthz",
        "/style.css",
        "/live.js",
        "/v1/systems",
        "/api/v1/systems",
        "/admin",
    ];
    for path in paths {
        for method in
            [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::CONNECT, Method::OPTIONS]
        {
            let (head, _) = ask(address, method.clone(), path, &[("content-type", "application/json")]).await;
            assert!(head.status().is_client_error(), "{method} {path}: {}", head.status());
        }
        let (head, body) = ask(address, Method::GET, path, &[]).await;
        let policy = head.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(head.headers()["x-frame-options"], "DENY");
        assert_eq!(head.headers()["cache-control"], "no-store");
        for foreign in ["http://", "https://", "//cdn"] {
            let body = body.replace("http://www.w3.org/2000/svg", "");
            assert!(!body.contains(foreign), "{path} names {foreign}");
        }
        assert!(!body.contains(" style=") && !body.contains(" onclick") && !body.contains("<form"), "{path}");
    }
}

#[tokio::test]
async fn the_api_gives_the_same_facts_and_a_broken_catalog_tells_no_secrets() {
    let (head, body) = ask(start(Some(support::bad())).await, Method::GET, "/api/v1/status", &[]).await;
    assert_eq!(head.headers()["content-type"], "application/json");
    let status: Status = serde_json::from_str(&body).unwrap();
    assert_eq!(status, support::bad());
    let broken = start(None).await;
    for path in ["/", "/api/v1/status", "/healthz"] {
        let (head, body) = ask(broken, Method::GET, path, &[]).await;
        assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!body.contains("/var/lib"), "{body}");
    }
    let (head, body) = ask(start(Some(support::good())).await, Method::GET, "/healthz", &[]).await;
    assert_eq!((head.status(), body.as_str()), (StatusCode::OK, "ok\n"));
}
