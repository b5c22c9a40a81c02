//! `rest:https://login:password@host:port/repository/`, taken apart.

use reqwest::Url;
use zeroize::Zeroizing;

use super::{Login, RestOptions};
use crate::{Error, Result};

/// The address without the login, ending in `/`, and the login.
pub(super) fn read(text: &str, options: &RestOptions) -> Result<(Url, Option<Login>)> {
    let wrong = |what: String| Error::Invalid {
        what,
        hint: "write `rest:https://login:password@host:port/repository/`".to_owned(),
    };
    // The text may hold a password, so no message repeats it.
    let mut url = Url::parse(text.strip_prefix("rest:").unwrap_or(text))
        .map_err(|error| wrong(format!("the address of the REST store cannot be read: {error}")))?;
    let host = url.host_str().unwrap_or_default();
    let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    if url.scheme() != "https" && !(url.scheme() == "http" && here) {
        return Err(wrong(format!("a REST store is reached by https, not by `{}`", url.scheme())));
    }
    let name = decode(url.username());
    let password = url.password().map(decode).or_else(|| options.password.as_ref().map(|p| p.to_string()));
    let login = match (name, password) {
        (name, _) if name.is_empty() => None,
        (name, password) => Some(Login { name, password: Zeroizing::new(password.unwrap_or_default()) }),
    };
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| wrong("the address has no place for a login".to_owned()))?;
    url.set_query(None);
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok((url, login))
}

/// Undoes percent-encoding; what is no encoding stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = code.and_then(|code| hex::decode(code).ok()).and_then(|code| code.first().copied());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_an_address_apart() {
        let options =
            RestOptions { password: Some(Zeroizing::new("given".to_owned())), ..RestOptions::default() };
        let (url, login) = read("rest:https://pacs:p%40ss%2F%%3a@primary:8443/pacs", &options).unwrap();
        assert_eq!(url.as_str(), "https://primary:8443/pacs/");
        let login = login.unwrap();
        assert_eq!((login.name.as_str(), login.password.as_str()), ("pacs", "p@ss/%:"));
        assert!(!format!("{login:?}").contains("p@ss"));
        let (_, login) = read("https://pacs@primary/pacs/", &options).unwrap();
        assert_eq!(login.unwrap().password.as_str(), "given");
        assert!(read("https://primary/pacs/", &options).unwrap().1.is_none());
        assert!(read("http://127.0.0.1:1/x/", &options).is_ok());
    }

    #[test]
    fn refuses_what_would_show_the_password() {
        for bad in ["rest:http://a:secret@primary/x/", "rest:ftp://a:secret@h/", "rest:secret", "a:secret@h"]
        {
            let error = read(bad, &RestOptions::default()).err().unwrap();
            assert!(!error.to_string().contains("secret@"), "{error}");
        }
    }
}
