//! Bodies of requests: read within limits of size and time, and never trusted.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{StatusCode, header};
use serde_json::Value;

use super::error::ApiError;

/// Values that a body may hold. Each takes about 100 bytes of memory, whatever it takes of the body.
const VALUES: usize = 1_000_000;

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most bytes.
    pub(crate) bytes: usize,
    /// Most time until the last byte is there.
    pub(crate) time: Duration,
}

/// Reads a JSON body.
pub(crate) async fn json(request: axum::extract::Request, limits: Limits) -> Result<Value, ApiError> {
    let (parts, body) = request.into_parts();
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.bytes) {
        return Err(too_large(limits.bytes));
    }
    let bytes = read(body, limits).await?;
    parse(&bytes)
}

async fn read(body: Body, limits: Limits) -> Result<axum::body::Bytes, ApiError> {
    match tokio::time::timeout(limits.time, to_bytes(body, limits.bytes)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Err(_) => {
            let seconds = limits.time.as_secs();
            let text = format!("the body was not complete after {seconds} s");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, text).code("timeout"))
        }
        Ok(Err(error)) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                if error.is::<http_body_util::LengthLimitError>() {
                    return Err(too_large(limits.bytes));
                }
                cause = error.source();
            }
            Err(ApiError::invalid("the body ended early"))
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    let text =
        format!("the body is larger than {limit} bytes; --max-body on the server's command line allows more");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text).code("request_too_large")
}

/// Reads JSON out of bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::invalid("the body is empty, expected a JSON object"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::invalid(format!("the body is no UTF-8 text: byte {} is wrong", error.valid_up_to()))
    })?;
    if values(text) > VALUES {
        return Err(ApiError::invalid(format!("the body holds more than {VALUES} values")));
    }
    serde_json::from_str(text).map_err(|error| ApiError::invalid(format!("the body is no JSON: {error}")))
}

/// At least as many as there are values in a JSON text.
fn values(text: &str) -> usize {
    let (mut count, mut string, mut escaped) = (1, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            b',' | b'[' | b'{' if !string => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_says_where() {
        for (body, says) in [
            (&b""[..], "the body is empty"),
            (b" \n", "the body is empty"),
            (b"{\"a\": \xff}", "no UTF-8 text: byte 6"),
            (b"{\"a\": 1", "no JSON: EOF"),
            (b"{'a': 1}", "no JSON: key must be a string at line 1 column 2"),
        ] {
            let error = parse(body).unwrap_err().message;
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn bodies_that_would_fill_the_memory_are_refused() {
        assert!(parse("[".repeat(1 << 20).as_bytes()).unwrap_err().message.contains("values"));
        let deep = [vec![b'['; 500_000], vec![b']'; 500_000]].concat();
        assert!(parse(&deep).unwrap_err().message.contains("recursion limit"));
        let wide = format!("[{}0]", "0,".repeat(1_000_000));
        assert!(parse(wide.as_bytes()).unwrap_err().message.contains("values"));
        let text = format!("{{\"text\": \"{}\"}}", "[,\\\"".repeat(1_000_000));
        assert!(parse(text.as_bytes()).is_ok(), "what is in a string is no value");
    }
}
