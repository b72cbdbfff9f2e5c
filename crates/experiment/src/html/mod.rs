//! Results as pages, with the style and the functions of [`modelve_probe::html`].

use modelve_probe::html::Page;

/// `modelve why`: words, parts and proof.
pub const WHY: Page = Page::new("why", include_str!("why.js"));
/// `modelve patch`: layers by positions or heads.
pub const PATCH: Page = Page::new("patch", include_str!("patch.js"));
/// `modelve ablate`: before and after.
pub const ABLATE: Page = Page::new("ablate", include_str!("ablate.js"));
/// `modelve patch` of many pairs: the mean map.
pub const PAIRS: Page = Page::new("patch", include_str!("pairs.js"));
/// `modelve heads`: layers by heads.
pub const HEADS: Page = Page::new("heads", include_str!("heads.js"));
/// `modelve steer run`: bars and texts by scale.
pub const STEER: Page = Page::new("steer run", include_str!("steer.js"));

#[cfg(test)]
mod tests {
    use super::*;
    use modelve_probe::html::About;

    #[test]
    fn pages_ask_nothing_of_any_network() {
        for page in [WHY, PATCH, ABLATE, PAIRS, HEADS, STEER] {
            let text = page.render(&serde_json::json!({}), &About::default());
            let text = text.unwrap();
            for word in ["http:", "https:", "src=", "@import", "url(", "fetch("] {
                let text = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(word), "{word}");
            }
            assert!(!text.contains("{{"), "every place is filled");
        }
    }
}
