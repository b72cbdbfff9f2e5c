//! The Hub's API: the commit of a repository, its files, and their lengths and hashes.
//!
//! Everything here comes from a server and is checked before it is used: lengths, counts, names
//! and hashes.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;

use super::failure::{About, Failure};
use super::remote::Remote;
use super::{Error, HubId, cache};

/// Limit in bytes of an answer about one repository or to one search. Real ones have a few KiB.
const LONGEST_ANSWER: u64 = 8 << 20;
/// Limit in bytes of a listing, all of its pages together. A listing of 100,000 files has about 30
/// MiB.
const LONGEST_LISTING: u64 = 64 << 20;
/// Maximum number of pages of a listing; the Hub lists a thousand files per page.
const MOST_PAGES: usize = 1000;
/// Limit of the search for suggestions for a mistyped name, which is not tried again: the error
/// must not wait long for them.
const TIME_TO_SUGGEST: Duration = Duration::from_secs(10);

/// A repository at a commit.
pub(super) struct Commit {
    /// 40 hexadecimal digits.
    pub hash: String,
    /// The repository in the Hub's own spelling.
    pub repo: String,
}

/// A file as the repository lists it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub name: String,
    pub size: u64,
    /// The hash, where the listing states it.
    digest: Option<Digest>,
}

/// The hash by which the Hub names a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-256 of the bytes, for large files.
    Sha256(String),
    /// Git's SHA-1, of a header and the bytes, for small files.
    GitSha1(String),
}

/// A file with the length and hash that the Hub states for it.
#[derive(Debug, Clone)]
pub(super) struct Stated {
    pub name: String,
    pub size: u64,
    pub digest: Digest,
}

impl Digest {
    /// The hexadecimal digits, which are also the name of the blob in the cache.
    pub fn hex(&self) -> &str {
        match self {
            Digest::Sha256(hex) | Digest::GitSha1(hex) => hex,
        }
    }

    fn sha256(text: &str) -> Option<Digest> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        hex(text, 64).map(Digest::Sha256)
    }
}

/// The JSON of the answer about a repository.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    id: String,
    sha: Option<String>,
}

/// The JSON of one entry of a listing.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    /// Git's hash of the file, or of its pointer where the file is a large one.
    oid: Option<String>,
    lfs: Option<Pointer>,
}

/// The Git LFS pointer that stands in git for a large file.
#[derive(Deserialize)]
struct Pointer {
    /// The SHA-256 of the bytes.
    oid: Option<String>,
    size: Option<u64>,
}

impl Remote<'_> {
    /// The commit that a revision stands for now.
    pub async fn commit(&self, revision: Option<&str>) -> Result<Commit, Error> {
        let api = ["api", "models"].into_iter().chain(self.repo.split('/'));
        let (mut url, about) = match revision {
            Some(revision) => {
                let url = self.url(api.chain(["revision", revision]));
                (url, About::Revision(revision))
            }
            None => (self.url(api), About::Repo),
        };
        url.set_query(Some("expand=sha"));
        let ask = async || {
            let (info, ..) = self
                .json::<Info>(url.clone(), about, LONGEST_ANSWER)
                .await?;
            match info.sha.as_deref() {
                Some(hash) if cache::is_commit(hash) => Ok(Commit {
                    hash: hash.to_ascii_lowercase(),
                    // The Hub's spelling of the name is taken only where it is a valid id.
                    repo: match info.id.parse::<HubId>() {
                        Ok(id) if id.repo == info.id => info.id,
                        _ => self.repo.to_owned(),
                    },
                }),
                _ => Err(self.malformed("it has no commit").into()),
            }
        };
        let error = match self.retrying(ask).await {
            Err(error) => error,
            commit => return commit,
        };
        match (error, revision) {
            // The Hub answers "no such revision" for a repository that does not exist, too, so the
            // repository is asked for by itself.
            (Error::NoSuchRevision { repo, revision }, Some(_)) => {
                match Box::pin(self.commit(None)).await {
                    Err(gone @ Error::NoSuchRepo { .. }) => Err(gone),
                    _ => Err(Error::NoSuchRevision { repo, revision }),
                }
            }
            (Error::NoSuchRepo { repo, host, .. }, _) => {
                let near = self.similar().await;
                Err(Error::NoSuchRepo { repo, host, near })
            }
            (error, _) => Err(error),
        }
    }

    /// The repositories whose names are most like this one's.
    async fn similar(&self) -> Vec<String> {
        let (org, name) = self.repo.split_once('/').unwrap_or(("", self.repo));
        let mut found: Vec<String> = Vec::new();
        let collect = async {
            for (key, value, limit) in [("search", name, "50"), ("author", org, "200")] {
                let mut url = self.url(["api", "models"]);
                url.query_pairs_mut()
                    .append_pair(key, value)
                    .append_pair("limit", limit);
                if let Ok((models, ..)) = self
                    .json::<Vec<Info>>(url, About::Repo, LONGEST_ANSWER)
                    .await
                {
                    found.extend(models.into_iter().map(|model| model.id));
                }
            }
        };
        let _ = self
            .guarded(tokio::time::timeout(TIME_TO_SUGGEST, collect))
            .await;
        found.retain(|id| id.parse::<HubId>().is_ok_and(|parsed| parsed.repo == *id));
        let wanted = self.repo.to_lowercase();
        let mut scored: Vec<(f64, String)> = found
            .into_iter()
            .map(|id| (strsim::jaro_winkler(&wanted, &id.to_lowercase()), id))
            .filter(|(score, id)| *score > 0.8 && *id != self.repo)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        scored.dedup();
        let best = scored.first().map_or(0.0, |(score, _)| *score);
        scored.retain(|(score, _)| *score > best - 0.05);
        scored.into_iter().take(3).map(|(_, id)| id).collect()
    }

    /// All files of the repository at a commit, by name.
    pub async fn files(&self, commit: &str) -> Result<BTreeMap<String, Listed>, Error> {
        let api = ["api", "models"].into_iter().chain(self.repo.split('/'));
        let mut first = self.url(api.chain(["tree", commit]));
        first.set_query(Some("recursive=true"));
        self.retrying(async || {
            let mut files = BTreeMap::new();
            let (mut url, mut room) = (first.clone(), LONGEST_LISTING);
            for _ in 0..MOST_PAGES {
                let (entries, headers, len) = self
                    .json::<Vec<Entry>>(url, About::Revision(commit), room)
                    .await?;
                room -= len;
                for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                    let file = self.listed(entry)?;
                    files.entry(file.name.clone()).or_insert(file);
                }
                match next_page(&first, &headers) {
                    Some(next) => url = next,
                    None => return Ok(files),
                }
            }
            let why = format!("its listing has more than {MOST_PAGES} pages");
            Err(Failure::from(self.malformed(&why)))
        })
        .await
    }

    /// Checks an entry of the listing.
    fn listed(&self, entry: Entry) -> Result<Listed, Error> {
        let name = entry.path;
        let Some(size) = entry.size else {
            return Err(self.malformed(&format!("it lists {name} without a size")));
        };
        let digest = match entry.lfs {
            None => entry.oid.and_then(|oid| hex(&oid, 40)).map(Digest::GitSha1),
            Some(pointer) => {
                if let Some(got) = pointer.size.filter(|there| *there != size) {
                    return Err(Error::WrongLength {
                        file: name,
                        stated: size,
                        got,
                    });
                }
                pointer.oid.and_then(|oid| Digest::sha256(&oid))
            }
        };
        Ok(Listed { name, size, digest })
    }

    /// The length and hash that the Hub states for a file. Where the listing has no hash, the Hub
    /// is asked about the file.
    pub async fn stated(&self, commit: &str, file: &Listed) -> Result<Stated, Error> {
        let stated = |digest| Stated {
            name: file.name.clone(),
            size: file.size,
            digest,
        };
        if let Some(digest) = &file.digest {
            return Ok(stated(digest.clone()));
        }
        let headers = self
            .retrying(async || self.head(commit, &file.name).await)
            .await?;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text("etag")).unwrap_or("");
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let digest = Digest::sha256(etag).or_else(|| hex(etag, 40).map(Digest::GitSha1));
        let Some(digest) = digest else {
            return Err(Error::NoChecksum {
                file: file.name.clone(),
            });
        };
        let size = text("x-linked-size").and_then(|size| size.parse().ok());
        if let Some(got) = size.filter(|there| *there != file.size) {
            return Err(Error::WrongLength {
                file: file.name.clone(),
                stated: file.size,
                got,
            });
        }
        Ok(stated(digest))
    }
}

/// Returns `text` in lower case if it consists of exactly `len` hexadecimal digits.
fn hex(text: &str, len: usize) -> Option<String> {
    let fine = text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    fine.then(|| text.to_ascii_lowercase())
}

/// The address of the next page, from a `Link` header with `rel="next"`: the address of the first
/// page with the query of the header's. Only the query is taken over, so that all pages come from
/// the same server, and a mirror that passes on the Hub's own header works.
fn next_page(first: &Url, headers: &HeaderMap) -> Option<Url> {
    let links = headers.get_all(LINK).iter();
    let links = links.filter_map(|value| value.to_str().ok());
    let next = links
        .flat_map(|text| text.split('<').skip(1))
        .filter_map(|link| link.split_once('>'))
        .find(|(_, rest)| {
            rest.split([';', ','])
                .map(str::trim)
                .any(|part| part == "rel=\"next\"" || part == "rel=next")
        });
    let to = first.join(next?.0).ok()?;
    let mut url = first.clone();
    url.set_query(to.query());
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_at_the_same_place_with_another_query() {
        let first: Url = "https://mirror.test/hf/api/models/o/n/tree/c?recursive=true"
            .parse()
            .unwrap();
        let next = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, link.parse().unwrap());
            next_page(&first, &headers).map(String::from)
        };
        let page = |query: &str| {
            Some(format!(
                "https://mirror.test/hf/api/models/o/n/tree/c{query}"
            ))
        };
        assert_eq!(
            next(
                r#"<https://huggingface.co/api/models/o/n/tree/c?recursive=true&cursor=a%3D>; rel="next""#
            ),
            page("?recursive=true&cursor=a%3D")
        );
        assert_eq!(next("</x?cursor=b>; rel=next"), page("?cursor=b"));
        assert_eq!(
            next(r#"<a?cursor=1>; rel="prev", <b?cursor=2>; title="x"; rel="next""#),
            page("?cursor=2")
        );
        assert_eq!(next(r#"<a?cursor=1>; rel="prev""#), None);
        assert_eq!(next("nonsense"), None);
        assert_eq!(next_page(&first, &HeaderMap::new()), None);
    }

    #[test]
    fn hashes_are_digits_of_the_right_number() {
        let digits = "AB".repeat(32);
        assert_eq!(
            Digest::sha256(&format!("sha256:{digits}")),
            Some(Digest::Sha256("ab".repeat(32)))
        );
        assert_eq!(Digest::sha256(&digits[1..]), None);
        assert_eq!(Digest::sha256("../../../x"), None);
    }
}
