//! What the Hub knows about a repository: its commit, its files, and what each should be.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use hf_hub::HFError;
use hf_hub::repository::RepoTreeEntry;

use super::remote::Remote;
use super::{Error, cache};

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
    /// git's hash of the file; of its pointer where the file is a large one.
    oid: String,
    large: bool,
}

/// The hash by which the Hub names a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// Of the bytes.
    Sha256(String),
    /// Of git's header and the bytes.
    GitSha1(String),
}

/// A file and what it should be.
#[derive(Debug, Clone)]
pub(super) struct Stated {
    pub name: String,
    pub size: u64,
    pub digest: Digest,
}

impl Digest {
    /// The digits, which are also the name of the blob.
    pub fn hex(&self) -> &str {
        match self {
            Digest::Sha256(hex) | Digest::GitSha1(hex) => hex,
        }
    }
}

impl Remote<'_> {
    /// The commit that a revision stands for now.
    pub async fn commit(&self, revision: Option<&str>) -> Result<Commit, Error> {
        let ask = async || {
            let info = self
                .hub
                .info()
                .maybe_revision(revision.map(str::to_owned))
                .expand(vec!["sha".to_owned()])
                .send()
                .await
                .map_err(|e| self.failure(e, revision, None))?;
            match info.sha {
                Some(hash) if cache::is_commit(&hash) => Ok(Commit {
                    hash: hash.to_ascii_lowercase(),
                    repo: info.id,
                }),
                _ => Err(self.malformed("it names no commit").into()),
            }
        };
        let error = match self.retrying(ask).await {
            Err(error) => error,
            commit => return commit,
        };
        match (error, revision) {
            // The Hub says "no such revision" of a repository that is not there, too.
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
        let client = self.hub.client();
        let by_name = client.list_models().search(name).limit(50).send();
        let by_org = client.list_models().author(org).limit(200).send();
        let collect = async {
            if let Ok(models) = by_name {
                found.extend(ids(models).await);
            }
            if let Ok(models) = by_org {
                found.extend(ids(models).await);
            }
        };
        // This is a courtesy inside an error: no retries, and not for long.
        let _ = self
            .guarded(tokio::time::timeout(Duration::from_secs(10), collect))
            .await;
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

    /// All files of the repository at a commit.
    pub async fn files(&self, commit: &str) -> Result<Vec<Listed>, Error> {
        self.retrying(async || {
            let entries = self
                .hub
                .list_tree()
                .revision(commit)
                .recursive(true)
                .send()
                .map_err(|e| self.failure(e, Some(commit), None))?;
            let mut entries = pin!(entries);
            let mut files = Vec::new();
            while let Some(entry) = entries.next().await {
                let entry = entry.map_err(|e| self.failure(e, Some(commit), None))?;
                if let RepoTreeEntry::File {
                    oid,
                    size,
                    path,
                    lfs,
                    ..
                } = entry
                {
                    files.push(Listed {
                        name: path,
                        size,
                        oid,
                        large: lfs.is_some(),
                    });
                }
            }
            Ok(files)
        })
        .await
    }

    /// What a file should be. Of a large file the listing has the hash of a pointer only, so
    /// the Hub is asked for the hash of the bytes.
    pub async fn stated(&self, commit: &str, file: &Listed) -> Result<Stated, Error> {
        let hex =
            |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !file.large && hex(&file.oid, 40) {
            return Ok(Stated {
                name: file.name.clone(),
                size: file.size,
                digest: Digest::GitSha1(file.oid.to_ascii_lowercase()),
            });
        }
        let headers = self
            .retrying(async || self.head(commit, &file.name).await)
            .await?;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text("etag")).unwrap_or("");
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if !hex(etag, 64) {
            return Err(Error::NoChecksum {
                file: file.name.clone(),
            });
        }
        let size = text("x-linked-size").and_then(|size| size.parse().ok());
        if let Some(size) = size
            && size != file.size
        {
            return Err(Error::WrongLength {
                file: file.name.clone(),
                stated: file.size,
                got: size,
            });
        }
        Ok(Stated {
            name: file.name.clone(),
            size: file.size,
            digest: Digest::Sha256(etag.to_ascii_lowercase()),
        })
    }
}

async fn ids(
    models: impl futures_util::Stream<Item = Result<hf_hub::repository::ModelInfo, HFError>>,
) -> Vec<String> {
    models
        .filter_map(async |model| model.ok().map(|model| model.id))
        .collect()
        .await
}
