//! `/`: a page to chat on, in one file without anything from elsewhere.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};

use super::ids;

/// The page. `{{nonce}}` stands where its style and its script show that they are its own.
const PAGE: &str = include_str!("page.html");

pub(super) async fn page() -> Response<Body> {
    let nonce = format!("{:016x}{:016x}", ids::random(), ids::random());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(Body::from(PAGE.replace("{{nonce}}", &nonce)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Browsers ask for it whatever the page says.
pub(super) async fn icon() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
