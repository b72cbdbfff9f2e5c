//! Access control: API keys, and web pages of other origins.
//!
//! A web page that a user visits can send requests to a server on the user's machine. It cannot hide
//! its origin, nor, if its host name resolves to this machine (DNS rebinding), the host name in the
//! request. Both are checked before anything else.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::explore;

/// Passes a request on to its handler, or refuses it.
pub async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    app.counters().requests.add(1);
    let origin = match check_origin(request.headers(), request.uri().host(), &app.config) {
        Ok(origin) => origin,
        Err(error) => return error.into_response(),
    };
    let preflight = request.method() == Method::OPTIONS && origin.is_some();
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        match admit(&app, &request) {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    };
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        app.counters().refused.add(1);
    }
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if preflight {
            let methods = HeaderValue::from_static("GET, POST");
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let allowed = HeaderValue::from_static("Authorization, Content-Type, X-Api-Key");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
            let seconds = HeaderValue::from_static("600");
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, seconds);
        }
    }
    response
}

fn admit(app: &App, request: &Request) -> Result<()> {
    // Monitoring has no key; these paths only tell whether the server is healthy.
    let path = request.uri().path();
    if path == "/health" || path == "/v1/health" {
        return Ok(());
    }
    // The page checks the token in its address itself, because a browser sends no key for a page.
    if path == explore::PATH && app.config.explore.is_some() {
        return Ok(());
    }
    check_key(request.headers(), &app.config.keys)?;
    match app.is_closing() {
        true => Err(ApiError::unavailable("the server is shutting down")),
        false => Ok(()),
    }
}

fn check_key(headers: &HeaderMap, keys: &[String]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let own = || headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let Some(shown) = bearer.or_else(own) else {
        let message = "an API key is needed: Authorization: Bearer KEY";
        return Err(ApiError::unauthorized(message));
    };
    // All keys are compared, each in constant time.
    let known = keys.iter().fold(false, |known, key| {
        known | bool::from(key.as_bytes().ct_eq(shown.as_bytes()))
    });
    match known {
        true => Ok(()),
        false => Err(ApiError::unauthorized(
            "the API key is not one of this server's",
        )),
    }
}

/// Returns the origin to allow in the response, if the request comes from an allowed page of
/// another origin.
fn check_origin(
    headers: &HeaderMap,
    uri_host: Option<&str>,
    config: &Config,
) -> Result<Option<HeaderValue>> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, _) => uri_host,
        _ => return Err(ApiError::bad("more than one Host")),
    };
    let Some(host) = host else {
        return Err(ApiError::bad("no Host"));
    };
    // A client that sends a key is not a page that a user happened to visit.
    if config.keys.is_empty() && !is_own_name(host, config) {
        return Err(ApiError::forbidden(format!(
            "this server does not answer under the name {}: --allow-host adds a name",
            host.escape_debug()
        )));
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
            Some(b"cross-site" | b"same-site") if config.origins.is_empty() => Err(
                ApiError::forbidden("pages of other sites may not use this server"),
            ),
            _ => Ok(None),
        };
    };
    let shown = origin.to_str().unwrap_or("null");
    let own = shown.split_once("://").is_some_and(|(_, of)| of == host);
    if own {
        return Ok(None);
    }
    let allowed = |known: &String| known == "*" || known.trim_end_matches('/') == shown;
    match config.origins.iter().any(allowed) {
        true => Ok(Some(origin.clone())),
        false => Err(ApiError::forbidden(format!(
            "pages of {} may not use this server: --allow-origin lets them",
            shown.escape_debug()
        ))),
    }
}

/// Returns whether a Host header names the server by an IP address or by a name that no web page on
/// the internet can have.
fn is_own_name(host: &str, config: &Config) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || config
            .hosts
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    fn config() -> Config {
        Config {
            address: ([127, 0, 0, 1], 8080).into(),
            model: "tiny".to_owned(),
            template: None,
            vectors: Vec::new(),
            keys: Vec::new(),
            origins: Vec::new(),
            hosts: vec!["box.lan".to_owned()],
            queue: 1,
            max_tokens: 1,
            limits: Limits::default(),
            explore: None,
        }
    }

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_own_names_are_answered() {
        for (host, ok) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("10.0.0.7", true),
            ("box.lan:80", true),
            ("evil.example", false),
            ("evil.example:8080", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:1", false),
            ("", false),
        ] {
            let given = check_origin(&headers(&[("host", host)]), None, &config());
            assert_eq!(given.is_ok(), ok, "{host}");
        }
        let two = headers(&[("host", "localhost"), ("host", "localhost")]);
        assert!(check_origin(&two, None, &config()).is_err());
        assert!(check_origin(&headers(&[]), None, &config()).is_err());
    }

    #[test]
    fn only_own_and_allowed_pages_are_answered() {
        let mut config = config();
        let ask = |config: &Config, origin: &'static str| {
            let headers = headers(&[("host", "localhost:8080"), ("origin", origin)]);
            check_origin(&headers, None, config)
        };
        assert_eq!(ask(&config, "http://localhost:8080").unwrap(), None);
        for other in [
            "http://localhost:3000",
            "https://evil.example",
            "null",
            "localhost:8080",
        ] {
            assert!(ask(&config, other).is_err(), "{other}");
        }
        config.origins = vec!["http://localhost:3000/".to_owned()];
        let allowed = ask(&config, "http://localhost:3000").unwrap();
        assert_eq!(allowed.unwrap(), "http://localhost:3000");
        assert!(ask(&config, "https://evil.example").is_err());
        config.origins = vec!["*".to_owned()];
        assert!(ask(&config, "https://evil.example").unwrap().is_some());
    }

    #[test]
    fn pages_that_hide_their_origin_are_not_answered() {
        let cross = headers(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]);
        assert!(check_origin(&cross, None, &config()).is_err());
        let typed = headers(&[("host", "localhost"), ("sec-fetch-site", "none")]);
        assert!(check_origin(&typed, None, &config()).is_ok());
    }

    #[test]
    fn a_key_is_shown_in_one_of_two_ways() {
        let keys = ["a b".to_owned(), "second".to_owned()];
        let ok = |of: &[(&'static str, &'static str)]| check_key(&headers(of), &keys).is_ok();
        assert!(ok(&[("authorization", "Bearer second")]));
        assert!(ok(&[("authorization", "bearer a b")]));
        assert!(ok(&[("x-api-key", "second")]));
        assert!(!ok(&[]));
        assert!(!ok(&[("authorization", "second")]));
        assert!(!ok(&[("authorization", "Basic second")]));
        assert!(!ok(&[("authorization", "Bearer secon")]));
        assert!(!ok(&[("authorization", "Bearer second2")]));
        assert!(!ok(&[("authorization", "Bearer ")]));
    }
}
