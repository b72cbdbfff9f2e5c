//! The page of `modelve explore`: the model for a person with a browser.
//!
//! The page is one document that includes its style and scripts. It sends requests to this server
//! only, with the token of its address as API key, and draws results with the scripts of the
//! one-file pages. A content security policy with a nonce, which is drawn for each response, keeps
//! the browser from running any other script.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use modelve_experiment::html as experiments;
use modelve_probe::Subject;
use modelve_probe::html::{About, COMMON, Page, STYLE};
use serde::Deserialize;
use serde_json::value::RawValue;
use subtle::ConstantTimeEq;

use crate::app::{App, Read, apart};
use crate::error::{ApiError, Result};

/// The path of the page.
pub const PATH: &str = "/";

/// The views that the page draws beside the text, named like the commands.
const VIEWS: [Page; 5] = [
    Page::LENS,
    Page::ATTENTION,
    experiments::WHY,
    experiments::PATCH,
    experiments::ABLATE,
];
/// Further views that can be saved as a file.
const KEPT: [Page; 2] = [Page::NEXT, Page::SCORE];

/// The page's own scripts, in their order in the document.
const SCRIPTS: [&str; 7] = [
    include_str!("state.js"),
    include_str!("ask.js"),
    include_str!("text.js"),
    include_str!("tree.js"),
    include_str!("views.js"),
    include_str!("chat.js"),
    include_str!("page.js"),
];

/// The text of the page for an address without the right token.
const LOCKED: &str =
    "This page opens with the whole address that modelve explore printed, its token included.\n";

/// Serves the page to clients that have the token of its address.
pub async fn page(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let Some(explore) = &app.config.explore else {
        return ApiError::not_found("there is no page here; modelve explore serves one")
            .into_response();
    };
    let shown = uri.query().and_then(|query| query.strip_prefix("token="));
    let known = shown.is_some_and(|token| token.as_bytes().ct_eq(explore.token.as_bytes()).into());
    if !known {
        return (StatusCode::FORBIDDEN, LOCKED).into_response();
    }
    let nonce = format!("{:016x}{:016x}", crate::random(), crate::random());
    let about = About {
        models: Vec::new(),
        model: explore.model.clone(),
        command: String::new(),
        date: String::new(),
    };
    let mut response = compose(&nonce, &about).into_response();
    let headers = response.headers_mut();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut put = |name: HeaderName, value: HeaderValue| headers.insert(name, value);
    put(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        put(header::CONTENT_SECURITY_POLICY, policy);
    }
    put(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    put(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

/// Returns the document.
fn compose(nonce: &str, about: &About) -> String {
    // In JSON inside an element, no "<" may be able to end the element.
    let about = serde_json::to_string(about).unwrap_or_default();
    let about = about.replace('<', "\\u003c");
    let mut views = String::from("const VIEWS = {\n");
    for view in VIEWS {
        // A view is a function with the variables that the scripts of one-file pages expect.
        let _ = writeln!(
            views,
            "{}(data, main, linked, addEventListener) {{\n{}\n}},",
            view.name(),
            view.script()
        );
    }
    views.push_str("};\n");
    let scripts = SCRIPTS.concat();
    let mut rest = include_str!("page.html");
    let mut out = String::with_capacity(rest.len() + views.len() + scripts.len() + 32_768);
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            break;
        };
        out.push_str(before);
        out.push_str(match name {
            "nonce" => nonce,
            "style" => STYLE,
            "own style" => include_str!("explore.css"),
            "common" => COMMON,
            "views" => &views,
            "scripts" => &scripts,
            _ => &about,
        });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Request to save a view as a file.
#[derive(Debug, Deserialize)]
struct Keep {
    /// The command whose page it is.
    page: String,
    /// The JSON of the view.
    data: Box<RawValue>,
    /// The command line that gives the same result.
    command: String,
    /// Date and time of the result.
    date: String,
}

/// Returns a view as a one-file page, like those of `--html`.
pub async fn keep(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    let ready = app.ready()?;
    let about = About {
        models: vec![Subject::of(&ready.means.model)],
        model: app.config.explore.as_ref().and_then(|e| e.model.clone()),
        ..About::default()
    };
    let page = apart(move || {
        let keep: Keep = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::bad(format!("not a view that can be saved: {error}")))?;
        let page = VIEWS
            .iter()
            .chain(&KEPT)
            .find(|page| page.name() == keep.page);
        let page = page.ok_or_else(|| ApiError::wrong("page", "no such page"))?;
        let about = About {
            command: keep.command,
            date: keep.date,
            ..about
        };
        page.render(&keep.data, &about)
            .map_err(|error| ApiError::internal(format!("the page cannot be written: {error}")))
    })
    .await?;
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Ok((kind, page).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_whole_and_asks_nobody_else() {
        let about = About {
            model: Some("</script><script>alert(1)</script>{{views}}".to_owned()),
            ..About::default()
        };
        let text = compose("NONCE", &about);
        assert!(!text.contains("alert(1)</script>"));
        let places = text.replace("{{views}}", "");
        assert!(!places.contains("{{"), "every place is filled");
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for word in ["http:", "https:", "src=", "@import", "url(", "innerHTML"] {
            assert!(!text.contains(word), "{word}");
        }
        assert_eq!(text.matches("<script").count(), 2);
        assert_eq!(text.matches("nonce=\"NONCE\"").count(), 2);
    }
}
