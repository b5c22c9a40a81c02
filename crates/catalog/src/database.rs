//! Which database: a file of this machine's, or a server that several of ours share.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use sqlx::postgres::PgConnectOptions;

use crate::{CatalogError, Result};

/// Where the catalog lies, as the configuration's URL says: `sqlite:/path/catalog.db` or
/// `postgres://user@host/database` (also `?host=/run/postgresql` for a unix socket, `sslmode`, `sslrootcert`
/// and the other parameters of libpq's URLs that sqlx knows).
#[derive(Debug, Clone)]
pub enum Database {
    /// SQLite in a file; one server.
    File(PathBuf),
    /// PostgreSQL; any number of servers.
    Server {
        /// How to connect.
        options: Box<PgConnectOptions>,
        /// Without a password; for messages.
        name: String,
    },
}

impl Database {
    /// Whether several servers may work with it at the same time.
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Server { .. })
    }

    /// Adds the password, which never stands in the URL.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        match self {
            Self::Server { options, name } => {
                Self::Server { options: Box::new(options.password(password)), name }
            }
            file @ Self::File(_) => file,
        }
    }
}

impl FromStr for Database {
    type Err = CatalogError;

    fn from_str(url: &str) -> Result<Self> {
        let bad = |why: &str| CatalogError::BadUrl { url: without_password(url), why: why.to_owned() };
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err(bad("it names no file")),
                path => Ok(Self::File(PathBuf::from(path))),
            };
        }
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(bad("write `sqlite:/path/catalog.db` or `postgres://user@host/database`"));
        }
        if without_password(url) != url {
            return Err(bad(
                "a password does not belong into the URL; name its file in `store.catalog_password_file`",
            ));
        }
        let options: PgConnectOptions =
            url.parse().map_err(|error: sqlx::Error| bad(&kuramori_model::fault::chain(&error)))?;
        if options.get_database().is_none() {
            return Err(bad("it names no database"));
        }
        Ok(Self::Server { options: Box::new(options), name: url.to_owned() })
    }
}

/// The URL as it may stand in a log.
fn without_password(url: &str) -> String {
    let mut shown = url.to_owned();
    if let Some((scheme, rest)) = url.split_once("://") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if let Some((login, host)) = authority.rsplit_once('@')
            && let Some((user, _)) = login.split_once(':')
        {
            shown = format!("{scheme}://{user}@{host}{path}");
        }
    }
    match shown.split_once('?') {
        Some((head, query)) => {
            let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("password=")).collect();
            if kept.is_empty() { head.to_owned() } else { format!("{head}?{}", kept.join("&")) }
        }
        None => shown,
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server { name, .. } => f.write_str(name),
        }
    }
}

impl From<&Path> for Database {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<PathBuf> for Database {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&PathBuf> for Database {
    fn from(path: &PathBuf) -> Self {
        Self::File(path.clone())
    }
}

impl From<&Database> for Database {
    fn from(database: &Database) -> Self {
        database.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_refused_in_the_url_and_never_shown() {
        for url in [
            "postgres://kuramori:secret@db/catalog",
            "postgres://kuramori@db/catalog?sslmode=require&password=secret",
        ] {
            let error = url.parse::<Database>().unwrap_err().to_string();
            assert!(!error.contains("secret") && error.contains("catalog_password_file"), "{error}");
        }
        let good = "postgres://kuramori@db:5433/catalog?sslmode=require".parse::<Database>().unwrap();
        assert!(good.is_shared());
        assert_eq!(good.to_string(), "postgres://kuramori@db:5433/catalog?sslmode=require");
    }

    #[test]
    fn what_is_no_catalog_is_named() {
        for url in ["mysql://db/catalog", "sqlite:", "postgres://db", "catalog.db"] {
            assert!(matches!(url.parse::<Database>(), Err(CatalogError::BadUrl { .. })), "{url}");
        }
        assert!(matches!("sqlite:///a/b".parse(), Ok(Database::File(path)) if path == Path::new("/a/b")));
    }
}
