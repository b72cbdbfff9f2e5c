//! Results as pages: one file each, with style, script and data in it, that asks nothing of any
//! network.

use serde::Serialize;

/// A kind of page. Its data is what `--json` prints; for commands that print an object per
/// prompt or text, an array of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `modelve next`: bars.
    Next,
    /// `modelve score`: coloured text.
    Score,
    /// `modelve lens`: layers by positions.
    Lens,
    /// `modelve attention`: maps with a head selector.
    Attention,
    /// `modelve compare`: what differs.
    Compare,
    /// `modelve heads`: layers by heads.
    Heads,
    /// `modelve steer run`: bars and texts by scale.
    Steer,
}

/// What tells our pages from others.
const MARK: &[u8] = b"<meta name=\"generator\" content=\"modelve\">";

impl Page {
    /// Whether a file that begins like this is a page of ours, which a new one may replace.
    pub fn is_one(head: &[u8]) -> bool {
        head.starts_with(b"<!doctype html>") && head.windows(MARK.len()).any(|part| part == MARK)
    }

    /// The whole page.
    ///
    /// # Errors
    /// Data that does not serialize.
    pub fn render(self, data: &impl Serialize) -> serde_json::Result<String> {
        let (title, script) = match self {
            Page::Next => ("next", include_str!("next.js")),
            Page::Score => ("score", include_str!("score.js")),
            Page::Lens => ("lens", include_str!("lens.js")),
            Page::Attention => ("attention", include_str!("attention.js")),
            Page::Compare => ("compare", include_str!("compare.js")),
            Page::Heads => ("heads", include_str!("heads.js")),
            Page::Steer => ("steer", include_str!("steer.js")),
        };
        // The data stands in a script element, which only `</script` and `<!--` can end.
        let data = serde_json::to_string(data)?.replace('<', "\\u003c");
        let page = include_str!("page.html");
        let mut out = String::with_capacity(page.len() + data.len() + script.len() + 16_384);
        let mut rest = page;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                break;
            };
            out.push_str(before);
            out.push_str(match name {
                "title" => title,
                "style" => include_str!("page.css"),
                "common" => include_str!("common.js"),
                "script" => script,
                _ => &data,
            });
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_leave_its_element() {
        let page = Page::Next
            .render(&"</script><script>alert(1)</script><!-- {{title}}")
            .unwrap();
        assert!(!page.contains("alert(1)</script>"));
        assert!(page.contains(r"\u003c/script>\u003cscript>alert(1)"));
        assert!(
            page.contains("{{title}}\"</script>"),
            "data is not a template"
        );
    }

    #[test]
    fn pages_are_told_from_other_files() {
        let page = Page::Lens.render(&"").unwrap();
        assert!(Page::is_one(&page.as_bytes()[..4096]));
        assert!(!Page::is_one(page.replace("modelve", "another").as_bytes()));
        assert!(!Page::is_one(&[b"my notes on ", MARK].concat()));
        assert!(!Page::is_one(b""));
    }

    #[test]
    fn pages_ask_nothing_of_any_network() {
        for page in [
            Page::Next,
            Page::Score,
            Page::Lens,
            Page::Attention,
            Page::Compare,
            Page::Heads,
            Page::Steer,
        ] {
            let text = page.render(&serde_json::json!([])).unwrap();
            for word in ["http:", "https:", "src=", "@import", "url(", "fetch("] {
                // The namespace of SVG is a name, not an address.
                let text = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(word), "{page:?}: {word}");
            }
            assert!(!text.contains("{{"), "{page:?}: every place is filled");
        }
    }
}
