//! Who may ask: hosts, origins and keys.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use subtle::ConstantTimeEq;

use super::error::ApiError;

/// What is checked of every request before its body is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// The key that requests must show.
    pub(crate) key: Option<String>,
    /// Whether only names of this machine are accepted as `Host`.
    pub(crate) local_only: bool,
    /// Origins whose pages may ask; `*` for all.
    pub(crate) origins: Vec<String>,
}

/// Paths that are open without a key: whether the server is ready, and the page that asks for the key.
const OPEN: [&str; 3] = ["/", "/health", "/favicon.ico"];

impl Guard {
    /// Refuses what must not be answered.
    pub(crate) fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let host = text(headers, &header::HOST);
        if self.local_only && !host.is_none_or(is_local) {
            // A page of somebody else's, whose name was made to point here, could read answers otherwise.
            let text = "this server answers on this machine only, and the Host header names another one";
            return Err(ApiError::new(StatusCode::FORBIDDEN, text).code("wrong_host"));
        }
        if let Some(origin) = text(headers, &header::ORIGIN)
            && !self.allows(origin, host)
        {
            let text = "pages of this origin may not ask; start the server with --cors ORIGIN to allow it";
            return Err(ApiError::new(StatusCode::FORBIDDEN, text).code("wrong_origin"));
        }
        let open = method == Method::OPTIONS || OPEN.contains(&path);
        match &self.key {
            Some(key) if !open && !shown(headers).any(|found| same(found, key)) => {
                let text = "the API key is missing or wrong; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, text).code("invalid_api_key"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a page of `origin` may ask: one that this server sent, or that the user allowed.
    fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        let own = origin.split_once("://").is_some_and(|(_, name)| Some(name) == host);
        own || self.allowed(origin).is_some()
    }

    fn allowed(&self, origin: &str) -> Option<&str> {
        let found = self.origins.iter().find(|known| *known == "*" || known.eq_ignore_ascii_case(origin));
        found.map(String::as_str)
    }

    /// Headers that tell a browser whether a page may read the response.
    pub(crate) fn headers(&self, request: &HeaderMap) -> Vec<(header::HeaderName, HeaderValue)> {
        let Some(origin) = text(request, &header::ORIGIN) else { return Vec::new() };
        let (Some(known), Ok(value)) = (self.allowed(origin), HeaderValue::from_str(origin)) else {
            return Vec::new();
        };
        let value = if known == "*" { HeaderValue::from_static("*") } else { value };
        vec![
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, value),
            (header::VARY, HeaderValue::from_static("origin")),
            (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS")),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, asked(request)),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after")),
            (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
        ]
    }
}

/// Headers that a browser asks whether it may send; clients send many of their own.
fn asked(request: &HeaderMap) -> HeaderValue {
    let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    asked.unwrap_or(HeaderValue::from_static("authorization, content-type, x-api-key, anthropic-version"))
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Keys that a request shows.
fn shown(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = text(headers, &header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let own = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    bearer.into_iter().chain(own)
}

/// Compares keys in a time that tells nothing but their lengths.
fn same(found: &str, key: &str) -> bool {
    found.as_bytes().ct_eq(key.as_bytes()).into()
}

/// Whether a Host header names this machine.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn status(guard: &Guard, path: &str, pairs: &[(&'static str, &str)]) -> u16 {
        guard.check(&Method::POST, path, &headers(pairs)).map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_key_opens_in_either_header_and_nothing_else_does() {
        let guard = Guard { key: Some("sesame".to_owned()), ..Guard::default() };
        for (pairs, expected) in [
            (&[][..], 401),
            (&[("authorization", "Bearer sesame")], 200),
            (&[("authorization", "bearer  sesame ")], 200),
            (&[("x-api-key", "sesame")], 200),
            (&[("authorization", "Bearer wrong!"), ("x-api-key", "sesame")], 200),
            (&[("authorization", "Bearer sesam")], 401),
            (&[("authorization", "Bearer sesames")], 401),
            (&[("authorization", "Basic sesame")], 401),
            (&[("authorization", "sesame")], 401),
            (&[("x-api-key", "")], 401),
        ] {
            assert_eq!(status(&guard, "/v1/models", pairs), expected, "{pairs:?}");
        }
        for open in OPEN {
            assert_eq!(status(&guard, open, &[]), 200);
        }
        assert_eq!(status(&guard, "/metrics", &[]), 401);
    }

    #[test]
    fn names_of_other_machines_are_refused_on_loopback() {
        let guard = Guard { local_only: true, ..Guard::default() };
        for (host, expected) in [
            ("localhost:8080", 200),
            ("LOCALHOST.", 200),
            ("chat.localhost:1", 200),
            ("127.0.0.1:8080", 200),
            ("127.8.9.1", 200),
            ("[::1]:8080", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("192.168.1.4:8080", 403),
            ("", 403),
        ] {
            assert_eq!(status(&guard, "/", &[("host", host)]), expected, "{host}");
            assert_eq!(status(&Guard::default(), "/", &[("host", host)]), 200, "{host}");
        }
    }

    #[test]
    fn other_origins_are_refused_until_they_are_allowed() {
        let page = |origin: &'static str| [("host", "localhost:80"), ("origin", origin)];
        let closed = Guard::default();
        assert_eq!(status(&closed, "/v1/models", &page("http://localhost:80")), 200);
        for other in ["https://evil.example", "null", "http://localhost:81"] {
            assert_eq!(status(&closed, "/v1/models", &page(other)), 403, "{other}");
        }
        assert!(closed.headers(&headers(&page("http://localhost:80"))).is_empty());
        let open = Guard { origins: vec!["https://app.example".to_owned()], ..Guard::default() };
        assert_eq!(status(&open, "/v1/models", &page("https://app.example")), 200);
        assert_eq!(status(&open, "/v1/models", &page("https://other.example")), 403);
        let found = open.headers(&headers(&page("https://app.example")));
        assert_eq!(
            found[0],
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://app.example"))
        );
        let all = Guard { origins: vec!["*".to_owned()], ..Guard::default() };
        assert_eq!(all.headers(&headers(&page("null")))[0].1, "*");
    }
}
