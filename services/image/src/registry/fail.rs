//! What is said when a registry does not do as it should: fault, host, reference, step and remedy.

use super::hosts::Endpoint;
use super::{Inner, session};
use crated_types::{Digest, Error, Fault, Kind, Reference, Result};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use std::error::Error as StdError;
use std::time::Duration;

/// Most bytes of an error's body that are looked at.
const ERROR_BODY_MAX: u64 = 64 << 10;

/// The bytes must hash to `digest`.
pub(crate) fn verify(digest: &Digest, bytes: &[u8], host: &str) -> Result<()> {
    let computed = crate::manifest::digest_with(digest.algorithm(), bytes);
    if computed == *digest {
        return Ok(());
    }
    Err(Error::new(Fault::DigestMismatch, format!("the bytes that {host} sent hash to {computed}"))
        .on(Kind::Content, digest)
        .remedy_is("the registry or a proxy in between is lying or broken: do not trust its bytes"))
}

/// Nobody is configured to serve the step.
pub(crate) fn no_endpoint(reference: &Reference, step: &str) -> Error {
    Error::new(Fault::Precondition, format!("no endpoint for {} may {step}", reference.domain()))
        .on(Kind::Image, reference)
        .remedy_is("give the server or a mirror in hosts.toml the capabilities \"pull\" and \"resolve\"")
}

/// A document over the limit.
pub(crate) fn too_large(reference: &Reference, size: u64) -> Error {
    Error::new(Fault::BadRegistry, format!("its manifest has {size} bytes, {} are the most", super::DOCUMENT_MAX))
        .on(Kind::Image, reference)
}

/// An answer that is no success.
pub(crate) async fn status(
    inner: &Inner,
    endpoint: &Endpoint,
    answer: Response<Incoming>,
    step: &'static str,
) -> Error {
    let status = answer.status();
    let body = session::body(answer, ERROR_BODY_MAX, Duration::from_secs(5)).await.unwrap_or_default();
    of_status(&inner.reference, endpoint.host(), status, &said(&body), step)
}

/// The error of `status` with what the registry `said`.
pub(crate) fn of_status(
    reference: &Reference,
    host: &str,
    status: StatusCode,
    said: &str,
    step: &'static str,
) -> Error {
    let with = |text: String| if said.is_empty() { text } else { format!("{text}: {said}") };
    let number = status.as_u16();
    let error = match status {
        StatusCode::UNAUTHORIZED => unauthenticated(reference, host, &with(String::new())),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Error::new(Fault::Unauthenticated, with(format!("the proxy before {host} wants other credentials (407)")))
                .remedy_is("put them into registry.http_proxy or HTTP_PROXY: http://user:password@host:port")
        }
        StatusCode::FORBIDDEN => Error::new(Fault::Denied, with(format!("{host} does not permit it ({number})")))
            .remedy_is(login(reference, "that may read this repository")),
        StatusCode::NOT_FOUND => Error::new(Fault::NotFound, with(format!("{host} has no such image or blob")))
            .remedy_is("check the name and the tag for typing errors"),
        StatusCode::TOO_MANY_REQUESTS => {
            Error::new(Fault::RateLimited, with(format!("{host} asks for patience (429) longer than we wait")))
                .remedy_is(login(reference, "(a higher limit), use a mirror (hosts.toml), or try later"))
        }
        StatusCode::BAD_REQUEST if said.to_ascii_lowercase().contains("https server") => {
            Error::new(Fault::BadRegistry, format!("{host} speaks TLS, but was asked in plain http")).remedy_is(
                format!("take {host} out of plain_http, or write `server = \"https://{host}\"` into its hosts.toml"),
            )
        }
        _ if status.is_server_error() => Error::new(Fault::Unreachable, with(format!("{host} answered {number}")))
            .remedy_is("the registry is in trouble: try later, or use a mirror (hosts.toml)"),
        _ => Error::new(Fault::BadRegistry, with(format!("{host} answered {number}"))),
    };
    error.on(Kind::Image, reference).at(step)
}

/// Credentials are wanted or were refused.
pub(crate) fn unauthenticated(reference: &Reference, host: &str, why: &str) -> Error {
    Error::new(Fault::Unauthenticated, format!("{host} wants credentials, or there is no such repository{why}"))
        .on(Kind::Image, reference)
        .remedy_is(login(reference, "or check the name"))
}

/// Credentials were given and refused.
pub(crate) fn refused(reference: &Reference, host: &str, source: &str) -> Error {
    Error::new(Fault::Unauthenticated, format!("{host} refuses the credentials of {source}"))
        .on(Kind::Image, reference)
        .remedy_is(login(reference, "again"))
}

fn login(reference: &Reference, tail: &str) -> String {
    format!(
        "give credentials for {} in docker's config.json (`docker login {0}` writes them) {tail}",
        reference.domain()
    )
}

/// The first messages of an OCI error body, in one line of printable text.
fn said(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(body) => {
            let items: Vec<String> = body
                .errors
                .iter()
                .take(3)
                .map(|item| match (item.code.is_empty(), item.message.is_empty()) {
                    (false, false) => format!("{} ({})", item.message, item.code),
                    (true, _) => item.message.clone(),
                    (_, true) => item.code.clone(),
                })
                .collect();
            items.join(", ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    if text.trim_start().starts_with('<') {
        return String::new(); // a page for browsers
    }
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(200).collect::<String>().trim().to_owned()
}

/// A request that got no answer. `peer` is whom we spoke to.
pub(crate) fn transport(
    reference: &Reference,
    peer: &str,
    error: &(dyn StdError + 'static),
    connecting: bool,
) -> Error {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let piece = error.to_string();
        if !text.contains(&piece) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&piece);
        }
        cause = error.source();
    }
    let lower = text.to_ascii_lowercase();
    let remedy = if lower.contains("proxy ") {
        "check registry.https_proxy and http_proxy (or HTTPS_PROXY and HTTP_PROXY), and what the proxy permits; no_proxy names what is \
         reached without it"
            .to_owned()
    } else if lower.contains("certificate") {
        format!(
            "put the authority's certificate into certs.d as `ca` of {peer}'s hosts.toml, or the host under skip_verify"
        )
    } else if lower.contains("corrupt message")
        || lower.contains("invalidcontenttype")
        || lower.contains("wrong version")
    {
        format!(
            "{peer} seems to speak plain http: add it to plain_http, or `server = \"http://{peer}\"` to its hosts.toml"
        )
    } else if lower.contains("lookup address") || lower.contains("dns") {
        format!("check the registry's name {peer:?} and this machine's DNS")
    } else {
        format!("check that {peer} is up and reachable from this machine, or use a mirror (hosts.toml)")
    };
    let what = if connecting { format!("cannot connect to {peer}: {text}") } else { format!("{peer} hung up: {text}") };
    Error::new(Fault::Unreachable, what).on(Kind::Image, reference).remedy_is(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_shown_tamely() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"},{"message":"x"}]}"#;
        assert_eq!(said(body), "no [31m (DENIED), x");
        assert_eq!(said(b"<html>"), "");
        assert_eq!(said(&vec![b'a'; 5000]).len(), 200);
    }

    #[test]
    fn each_status_has_its_fault() {
        let reference = Reference::parse("localhost:5000/a").unwrap();
        for (status, fault) in [
            (401, Fault::Unauthenticated),
            (403, Fault::Denied),
            (404, Fault::NotFound),
            (429, Fault::RateLimited),
            (503, Fault::Unreachable),
            (418, Fault::BadRegistry),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let error = of_status(&reference, "localhost:5000", status, "because", "resolve");
            assert_eq!(error.fault(), fault);
            let text = error.to_string();
            assert!(text.contains("localhost:5000/a:latest") && text.contains("because"), "{text}");
            assert_eq!(error.step(), Some("resolve"));
        }
    }
}
