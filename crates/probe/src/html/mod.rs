//! Results as pages: one file each, with style, script and data in it, that asks nothing of any
//! network.

use serde::Serialize;

use super::Subject;

/// A kind of page. Its data is what `--json` prints; for commands that print an object per
/// prompt or text, an array of those.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The command that makes it.
    name: &'static str,
    /// What draws its data, with the functions of [`COMMON`].
    script: &'static str,
}

/// What a page says of itself besides its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct About {
    /// The model, or the models.
    pub models: Vec<Subject>,
    /// What names the model on a command line, for commands that the page proposes.
    pub model: Option<String>,
    /// The command line that made it.
    pub command: String,
    /// The day and time it was made at.
    pub date: String,
}

/// The style of every page.
pub const STYLE: &str = include_str!("page.css");

/// The functions that every view is drawn with, see the head of the file.
pub const COMMON: &str = include_str!("common.js");

/// What tells our pages from others.
const MARK: &[u8] = b"<meta name=\"generator\" content=\"modelve\">";

impl Page {
    /// Whether a file that begins like this is a page of ours, which a new one may replace.
    pub fn is_one(head: &[u8]) -> bool {
        head.starts_with(b"<!doctype html>") && head.windows(MARK.len()).any(|part| part == MARK)
    }

    /// `modelve next`: bars.
    pub const NEXT: Page = Page::new("next", include_str!("next.js"));
    /// `modelve score`: coloured text.
    pub const SCORE: Page = Page::new("score", include_str!("score.js"));
    /// `modelve lens`: layers by positions.
    pub const LENS: Page = Page::new("lens", include_str!("lens.js"));
    /// `modelve attention`: maps with a head selector.
    pub const ATTENTION: Page = Page::new("attention", include_str!("attention.js"));
    /// `modelve compare`: what differs.
    pub const COMPARE: Page = Page::new("compare", include_str!("compare.js"));

    /// A page of a command, drawn by a script that finds the functions of `common.js` and its data
    /// in `data`.
    pub const fn new(name: &'static str, script: &'static str) -> Self {
        Page { name, script }
    }

    /// The command that makes it.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// What draws its data into `main`, with the functions of [`COMMON`].
    pub const fn script(self) -> &'static str {
        self.script
    }

    /// The whole page.
    ///
    /// # Errors
    /// Data that does not serialize.
    pub fn render(self, data: &impl Serialize, about: &About) -> serde_json::Result<String> {
        let json = |text: String| text.replace('<', "\\u003c");
        // The data stands in a script element, which only `</script` and `<!--` can end.
        let data = json(serde_json::to_string(data)?);
        let about = json(serde_json::to_string(about)?);
        let page = include_str!("page.html");
        let mut out = String::with_capacity(page.len() + data.len() + self.script.len() + 32_768);
        let mut rest = page;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                break;
            };
            out.push_str(before);
            out.push_str(match name {
                "title" => self.name,
                "style" => STYLE,
                "page" => include_str!("page.js"),
                "common" => COMMON,
                "script" => self.script,
                "about" => &about,
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
        let hostile = "</script><script>alert(1)</script><!-- {{title}}";
        let about = About {
            command: hostile.to_owned(),
            ..About::default()
        };
        let page = Page::NEXT.render(&hostile, &about).unwrap();
        assert!(!page.contains("alert(1)</script>"));
        assert!(page.contains(r"\u003c/script>\u003cscript>alert(1)"));
        assert!(
            page.contains("{{title}}\"</script>"),
            "data is not a template"
        );
    }

    #[test]
    fn pages_are_told_from_other_files() {
        let page = Page::LENS.render(&"", &About::default()).unwrap();
        assert!(Page::is_one(&page.as_bytes()[..4096]));
        assert!(!Page::is_one(page.replace("modelve", "another").as_bytes()));
        assert!(!Page::is_one(&[b"my notes on ", MARK].concat()));
        assert!(!Page::is_one(b""));
    }

    #[test]
    fn pages_ask_nothing_of_any_network() {
        for page in [
            Page::NEXT,
            Page::SCORE,
            Page::LENS,
            Page::ATTENTION,
            Page::COMPARE,
        ] {
            let text = page
                .render(&serde_json::json!([]), &About::default())
                .unwrap();
            for word in ["http:", "https:", "src=", "@import", "url(", "fetch("] {
                // The namespace of SVG is a name, not an address.
                let text = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(word), "{}: {word}", page.name);
            }
            assert!(!text.contains("{{"), "{}: every place is filled", page.name);
        }
    }
}
