//! A whole fetch, in order: the commit, the listing, the choice of files, the check of disk space,
//! the transfers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::api::{Commit, Listed, Stated};
use super::ggufs::{self, Choice, GgufModel};
use super::remote::Remote;
use super::transfer::{Transfer, write_error};
use super::{Error, FetchOptions, Fetched, HubId, Wanted, select};
use modelve_base::infile;
use modelve_base::progress::{Progress, Unit};

/// Bytes that a fetch leaves free on the disk, for other programs that write to it.
const SPARE: u64 = 64 << 20;

/// Limit in bytes of a configuration or tokenizer file; the largest have 30 MiB.
const LARGEST_DESCRIPTION: u64 = 256 << 20;

pub(super) async fn fetch(
    id: &HubId,
    wanted: Wanted,
    options: &FetchOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Fetched, Error> {
    let remote = Remote::new(id, options, progress, cancel)?;
    let Commit { hash: commit, repo } = remote.commit(id.revision.as_deref()).await?;
    let listing = remote.files(&commit).await?;
    let folder = options.cache.snapshot_folder(&id.repo, &commit);
    let mut run = Run {
        remote: &remote,
        commit: &commit,
        listing: &listing,
        received: 0,
    };

    let gguf = if run.is_gguf(wanted) {
        let first = run.fetch_gguf(id).await?;
        Some(folder.join(first))
    } else {
        run.fetch_checkpoint(id, wanted != Wanted::Description)
            .await?;
        None
    };
    let revision = id.revision.as_deref().unwrap_or("main");
    options
        .cache
        .write_ref(&id.repo, revision, &commit)
        .map_err(|e| write_error(options.cache.root(), e))?;
    Ok(Fetched {
        folder,
        repo,
        gguf,
        received: run.received,
        commit,
    })
}

struct Run<'a> {
    remote: &'a Remote<'a>,
    commit: &'a str,
    listing: &'a BTreeMap<String, Listed>,
    received: u64,
}

impl<'a> Run<'a> {
    fn listed(&self, name: &str) -> Option<&'a Listed> {
        self.listing.get(name)
    }

    /// Returns whether GGUF files are meant rather than a checkpoint.
    fn is_gguf(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Description | Wanted::Checkpoint => false,
            Wanted::Gguf => true,
            Wanted::Any => !self.has_checkpoint() && !self.ggufs().is_empty(),
        }
    }

    fn has_checkpoint(&self) -> bool {
        self.listed(select::SINGLE).is_some() || self.listed(select::INDEX).is_some()
    }

    fn ggufs(&self) -> Vec<GgufModel> {
        ggufs::gguf_models(self.listing.keys().map(String::as_str))
    }

    /// Fetches one GGUF model and returns the name of its first file.
    async fn fetch_gguf(&mut self, id: &HubId) -> Result<String, Error> {
        let models = self.ggufs();
        let label = id.quant.as_deref();
        let model = match (ggufs::choose(&models, label), label) {
            (Choice::One(model), _) => model,
            (Choice::Several(several), _) => {
                return Err(Error::WhichGguf {
                    id: id.clone(),
                    names: ggufs::unique_labels(&models, several),
                });
            }
            (Choice::None, Some(_)) if !models.is_empty() => {
                return Err(Error::NoSuchLabel {
                    id: id.clone(),
                    names: ggufs::unique_labels(&models, &models),
                });
            }
            (Choice::None, _) => return Err(self.nothing("GGUF file")),
        };
        if !model.complete {
            return Err(Error::NothingThere {
                repo: id.repo.clone(),
                wanted: format!("complete set of the parts of {}", model.name),
                found: model.files.clone(),
                checkpoint: false,
            });
        }
        let files = model.files.iter().filter_map(|name| self.listed(name));
        let files: Vec<&Listed> = files.collect();
        self.transfer(&files).await?;
        Ok(model.files[0].clone())
    }

    /// Fetches the description of a checkpoint, and then, if `weights`, its shards.
    async fn fetch_checkpoint(&mut self, id: &HubId, weights: bool) -> Result<(), Error> {
        let description: Vec<&Listed> = self
            .listing
            .values()
            .filter(|file| select::is_description(&file.name, file.size))
            .collect();
        if self.listed("config.json").is_none() {
            let models = self.ggufs();
            return Err(match models.is_empty() {
                true => self.nothing("config.json"),
                false => Error::OnlyGguf {
                    id: id.clone(),
                    names: ggufs::unique_labels(&models, &models),
                },
            });
        }
        if let Some(file) = description.iter().find(|f| f.size > LARGEST_DESCRIPTION) {
            let (name, size) = (&file.name, super::bytes(file.size));
            let why = format!("it lists {name} with {size}");
            return Err(self.remote.malformed(&why));
        }
        if weights && !self.has_checkpoint() {
            return Err(self.nothing("safetensors"));
        }
        if !weights {
            return self.transfer(&description).await;
        }
        // The index is fetched alone and first: it names the shards, and whether they fit on the
        // disk is checked before the first byte of any.
        let mut files = description;
        if let Some(index) = self.listed(select::INDEX) {
            self.transfer(&[index]).await?;
            for shard in self.shards()? {
                let file = self.listed(&shard).ok_or_else(|| Error::NoShard {
                    repo: self.remote.repo.to_owned(),
                    shard: shard.clone(),
                })?;
                files.push(file);
            }
        } else {
            files.extend(self.listed(select::SINGLE));
        }
        self.transfer(&files).await
    }

    fn shards(&self) -> Result<Vec<String>, Error> {
        let cache = &self.remote.options.cache;
        let path = cache
            .snapshot_folder(self.remote.repo, self.commit)
            .join(select::INDEX);
        let index = infile::regular(&path, select::LARGEST_INDEX)
            .map_err(|source| Error::Read { path, source })?;
        select::shards_of_index(&index).map_err(|source| Error::Select {
            repo: self.remote.repo.to_owned(),
            source,
        })
    }

    fn nothing(&self, wanted: &str) -> Error {
        let mut found: Vec<String> = self.listing.keys().take(8).cloned().collect();
        let more = self.listing.len() - found.len();
        if more > 0 {
            found.push(format!("{more} more"));
        }
        Error::NothingThere {
            repo: self.remote.repo.to_owned(),
            wanted: wanted.to_owned(),
            found,
            checkpoint: self.has_checkpoint(),
        }
    }

    /// Fetches those of the files that the cache lacks.
    async fn transfer(&mut self, files: &[&Listed]) -> Result<(), Error> {
        let remote = self.remote;
        for file in files {
            select::safe_name(&file.name).map_err(|source| Error::Select {
                repo: remote.repo.to_owned(),
                source,
            })?;
        }
        let stated: Vec<Stated> = stream::iter(files)
            .map(|file| remote.stated(self.commit, file))
            .buffered(remote.options.parallel.max(1))
            .try_collect()
            .await?;
        let transfer = Transfer {
            remote,
            commit: self.commit,
            received: AtomicU64::new(0),
            here: AtomicU64::new(0),
            told: AtomicBool::new(false),
        };
        // The sum of what the cache holds already is smaller and so cannot overflow.
        let total = stated
            .iter()
            .try_fold(0_u64, |sum, file| sum.checked_add(file.size))
            .ok_or_else(|| remote.malformed("it lists files of impossible sizes"))?;
        let mut counted = Vec::with_capacity(stated.len());
        for file in &stated {
            counted.push(match transfer.is_there(file).await? {
                true => file.size,
                false => remote.part_len(file),
            });
        }
        let here = counted.iter().sum();
        transfer.here.store(here, Ordering::Relaxed);
        self.check_space(stated.len(), total, here)?;

        let what = format!("fetching {}", remote.repo);
        remote.progress.start(&what, Unit::Bytes, total, here);
        let result = stream::iter(stated.iter().zip(counted))
            .map(|(file, counted)| transfer.fetch(file, counted))
            .buffer_unordered(remote.options.parallel.max(1))
            .try_collect::<()>()
            .await;
        remote.progress.finish();
        self.received += transfer.received.into_inner();
        result.map_err(|error| match error {
            Error::Interrupted { .. } => Error::Interrupted {
                here: transfer.here.into_inner(),
                total,
            },
            error => error,
        })
    }

    fn check_space(&self, files: usize, total: u64, here: u64) -> Result<(), Error> {
        let options = self.remote.options;
        let folder = options.cache.root();
        let need = total.saturating_sub(here);
        match (options.free_space)(folder) {
            Some(free) if need > 0 && need.saturating_add(SPARE) > free => Err(Error::NoSpace {
                repo: self.remote.repo.to_owned(),
                files,
                total,
                here,
                folder: folder.to_owned(),
                free,
            }),
            _ => Ok(()),
        }
    }
}
