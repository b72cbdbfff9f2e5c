//! `org/name[@revision][:LABEL]`: how a model on the Hub is named.

use std::fmt;
use std::str::FromStr;

/// The quantization that is chosen where none is named and several are available.
pub const DEFAULT_QUANT: &str = "Q4_K_M";

/// A model repository on the Hub, and which of its revisions and files is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubId {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit; `None` is the repository's main branch.
    pub revision: Option<String>,
    /// The label in capitals: a quantization, as in `Q4_K_M`, or any other part of a file's name
    /// that distinguishes it from the repository's other files. [`crate::ggufs::choose`] defines
    /// which file it means.
    pub quant: Option<String>,
}

/// The reason why a text is not a Hub id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a Hub id: {why}")]
pub struct IdError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl HubId {
    /// `org`, the part before the slash.
    pub fn org(&self) -> &str {
        self.repo.split_once('/').map_or("", |(org, _)| org)
    }

    /// `name`, the part after the slash.
    pub fn name(&self) -> &str {
        self.repo
            .split_once('/')
            .map_or(self.repo.as_str(), |(_, name)| name)
    }

    /// The same repository and revision, without a label.
    pub fn without_quant(&self) -> HubId {
        HubId {
            quant: None,
            ..self.clone()
        }
    }

    /// The same repository and revision with another label.
    ///
    /// # Errors
    /// `label` contains characters that no label has.
    pub fn with_quant(&self, label: &str) -> Result<HubId, IdError> {
        format!("{}:{label}", self.without_quant()).parse()
    }
}

/// Turns the address of a page on the Hub, as a browser shows it, into an id: that of a repository, of a
/// revision (`/tree/REVISION`), or of a GGUF file (`/blob/REVISION/FILE`, `/resolve/REVISION/FILE`).
fn id_of_address(text: &str) -> Option<String> {
    let page = text.strip_prefix("https://").unwrap_or(text);
    let page = ["huggingface.co/", "hf.co/"]
        .iter()
        .find_map(|host| page.strip_prefix(host))?;
    let page = page.split(['?', '#']).next()?.trim_end_matches('/');
    let mut parts = page.splitn(5, '/');
    let mut id = format!("{}/{}", parts.next()?, parts.next()?);
    let (kind, revision, file) = (parts.next(), parts.next(), parts.next());
    if let Some(revision) = revision.filter(|&revision| revision != "main") {
        id += &format!("@{revision}");
    }
    match (kind, file) {
        (None | Some("tree"), None) => Some(id),
        (Some("blob" | "resolve"), Some(file)) if file.ends_with(".gguf") => {
            Some(format!("{id}:{file}"))
        }
        _ => None,
    }
}

impl FromStr for HubId {
    type Err = IdError;

    /// Reads `org/name[@revision][:LABEL]`, or the address of a page on the Hub.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let id = id_of_address(text);
        let fail = |why| {
            Err(IdError {
                text: text.to_owned(),
                why,
            })
        };
        // A revision can contain slashes (refs/pr/1) but no colon, which git forbids.
        let id = id.as_deref().unwrap_or(text);
        let (rest, quant) = match id.rsplit_once(':') {
            Some((rest, quant)) => (rest, Some(quant)),
            None => (id, None),
        };
        let (repo, revision) = match rest.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (rest, None),
        };
        let Some((org, name)) = repo.split_once('/') else {
            return fail("it has no slash, as in org/name");
        };
        if !is_repo_part(org) || !is_repo_part(name) {
            return fail("organization and name are letters, digits, `-`, `_` and `.`");
        }
        if revision.is_some_and(|r| !is_revision(r)) {
            return fail("what follows `@` is no branch, tag or commit");
        }
        if quant.is_some_and(|q| !is_label(q)) {
            return fail(
                "what follows `:` is no quantization or part of a file's name, as in Q4_K_M",
            );
        }
        Ok(HubId {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            quant: quant.map(str::to_ascii_uppercase),
        })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(quant) = &self.quant {
            write!(f, ":{quant}")?;
        }
        Ok(())
    }
}

/// Returns whether an organization or a name follows the Hub's rule for names, which also keeps it
/// from being a path out of its folder.
fn is_repo_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 96
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("..")
        && !part.contains("--")
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_revision(revision: &str) -> bool {
    !revision.is_empty()
        && revision.len() <= 255
        && revision
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'))
        && !revision.contains("..")
        && revision
            .bytes()
            .all(|b| b.is_ascii_graphic() && !br#"\:*?"<>|~^[@"#.contains(&b))
}

fn is_label(label: &str) -> bool {
    label.len() <= 200
        && label
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b'+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Option<String>, Option<String>) {
        let id: HubId = text.parse().unwrap();
        assert_eq!(id.to_string().to_lowercase(), text.to_lowercase());
        (id.repo, id.revision, id.quant)
    }

    #[test]
    fn splits_repository_revision_and_quantization() {
        let some = |s: &str| Some(s.to_owned());
        let repo = "microsoft/Phi-3-mini-128k-instruct".to_owned();
        assert_eq!(parsed(&repo), (repo.clone(), None, None));
        assert_eq!(
            parsed("microsoft/Phi-3-mini-128k-instruct:q4_k_m"),
            (repo.clone(), None, some("Q4_K_M"))
        );
        assert_eq!(
            parsed("microsoft/Phi-3-mini-128k-instruct@refs/pr/3:Q4_0"),
            (repo.clone(), some("refs/pr/3"), some("Q4_0"))
        );
        assert_eq!(
            parsed("microsoft/Phi-3-mini-128k-instruct:BF16/x.i1-UD-Q4_K_XL"),
            (repo, None, some("BF16/X.I1-UD-Q4_K_XL"))
        );
    }

    #[test]
    fn addresses_of_pages_are_ids() {
        for (address, id) in [
            ("https://huggingface.co/o/n", "o/n"),
            ("https://huggingface.co/o/n/", "o/n"),
            ("https://hf.co/o/n:Q4_K_M", "o/n:Q4_K_M"),
            ("hf.co/o/n:q4", "o/n:Q4"),
            ("https://huggingface.co/o/n/tree/main", "o/n"),
            ("https://huggingface.co/o/n/tree/v2", "o/n@v2"),
            (
                "https://huggingface.co/o/n/blob/main/B/x-Q4_0.gguf",
                "o/n:B/X-Q4_0.GGUF",
            ),
            (
                "https://huggingface.co/o/n/resolve/v2/x.gguf?download=true",
                "o/n@v2:X.GGUF",
            ),
        ] {
            assert_eq!(address.parse::<HubId>().unwrap().to_string(), id);
        }
        for address in [
            "https://huggingface.co/datasets/o/n",
            "https://huggingface.co/o/n/blob/main/README.md",
            "https://huggingface.co/o",
            "https://example.org/o/n",
            "https://huggingface.co/o/n/resolve/main/../x.gguf",
        ] {
            assert!(address.parse::<HubId>().is_err(), "{address}");
        }
    }

    #[test]
    fn rejects_what_could_leave_the_folder_or_is_no_id() {
        for text in [
            "",
            "gpt2",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/.git",
            "a/b--c",
            "a b/c",
            "a/b@",
            "a/b@../x",
            "a/b@x/../y",
            "a/b@/x",
            "a/b@x\\y",
            "a/b@.x",
            "a/b:",
            "a/b:../x",
            "a/b:Q 4",
            "a/b:/x",
            "a/b:x/",
            "a/b:x:y",
        ] {
            assert!(text.parse::<HubId>().is_err(), "{text:?} must be refused");
        }
    }
}
