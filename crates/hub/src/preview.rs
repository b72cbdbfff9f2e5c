//! The contents of a repository without fetching it: small files are read, and of weights only the
//! headers, by byte ranges.
//!
//! The result is a folder of files with the names and lengths of those in the repository. After
//! their headers they are holes, which take no space on the disk. So the code that opens a
//! checkpoint or a GGUF file opens these as well, with the same checks.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use modelve_base::progress::{Progress, Unit};
use modelve_gguf::Header;
use reqwest::{Response, StatusCode};

use crate::api::Listed;
use crate::failure::Failure;
use crate::ggufs::{self, Choice, GgufModel};
use crate::remote::{Remote, Span, words};
use crate::transfer::{content_range, write_error};
use crate::{Error, FetchOptions, HubId, runtime, select};

/// Limit in bytes of what is read of a repository's files, all together. The headers of GGUF files
/// hold the vocabulary, 1 to 16 MiB; those of safetensors have 100 KiB a shard.
pub const MOST_READ: u64 = 64 << 20;

/// Bytes of a GGUF file that are read first; each further request doubles what was read.
const FIRST_OF_GGUF: u64 = 1 << 20;
/// Bytes that are read first of a safetensors file, whose beginning says how long its header is,
/// and of the further parts of a split GGUF, which have no vocabulary.
const FIRST_OF_SHARD: u64 = 128 << 10;
/// Maximum length of a file. The largest on the Hub have 50 GB.
const LONGEST_FILE: u64 = 1 << 42;
/// Maximum number of models with different names of which a header is read for a list.
const MOST_BASES: usize = 4;

/// Small files that say what a checkpoint is.
const DESCRIPTION: [&str; 4] = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "README.md",
];

/// What was read of a repository. The folder is removed when this is dropped.
#[derive(Debug)]
pub struct Preview {
    /// The repository, in the Hub's own spelling.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// Bytes that were received of its files.
    pub read: u64,
    /// The contents.
    pub seen: Seen,
    root: tempfile::TempDir,
}

/// The contents of a repository.
#[derive(Debug)]
pub enum Seen {
    /// A GGUF model: the one that the label means, or the only one.
    Gguf {
        /// Its names in the repository.
        model: GgufModel,
        /// Its first file, with the header alone; the others are beside it.
        path: PathBuf,
        /// Bytes of all its files.
        bytes: u64,
    },
    /// A checkpoint: description and headers.
    Checkpoint {
        /// The folder.
        folder: PathBuf,
        /// Bytes of its weights.
        bytes: u64,
    },
    /// Several GGUF models, of which none was named.
    Several(Vec<Offer>),
}

/// One of several GGUF models.
#[derive(Debug)]
pub struct Offer {
    /// Its names in the repository.
    pub model: GgufModel,
    /// The shortest label that means it and no other.
    pub label: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// The header of this model or of one that differs only in the label; `None` where none was
    /// read.
    pub header: Option<PathBuf>,
}

impl Preview {
    /// The folder that the paths in [`Preview::seen`] are below, followed by `org/name`.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

/// Reads what is in a repository on the Hub. Without a label a checkpoint comes before GGUF files.
///
/// # Errors
/// Each variant of [`Error`]; [`Error::Offline`] where the network is off.
pub fn preview(
    id: &HubId,
    options: &FetchOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Preview, Error> {
    if options.offline {
        return Err(Error::Offline {
            id: id.clone(),
            missing: vec!["its headers".to_owned()],
        });
    }
    runtime()?.block_on(async {
        let remote = Remote::new(id, options, progress, cancel)?;
        let commit = remote.commit(id.revision.as_deref()).await?;
        let listing = remote.files(&commit.hash).await?;
        let root = tempfile::Builder::new().prefix("modelve-").tempdir();
        let root = root.map_err(|e| write_error(&std::env::temp_dir(), e))?;
        let reader = Reader {
            folder: root.path().join(&id.repo),
            remote: &remote,
            commit: &commit.hash,
            listing: &listing,
            read: AtomicU64::new(0),
        };
        let seen = reader.look(id).await;
        progress.finish();
        Ok(Preview {
            seen: seen?,
            read: reader.read.into_inner(),
            repo: commit.repo,
            commit: commit.hash,
            root,
        })
    })
}

struct Reader<'a> {
    folder: PathBuf,
    remote: &'a Remote<'a>,
    commit: &'a str,
    listing: &'a BTreeMap<String, Listed>,
    read: AtomicU64,
}

impl<'a> Reader<'a> {
    async fn look(&self, id: &HubId) -> Result<Seen, Error> {
        let models = ggufs::gguf_models(self.listing.keys().map(String::as_str));
        let has = |name: &str| self.listing.contains_key(name);
        let checkpoint = has(select::SINGLE) || has(select::INDEX);
        let model = match &id.quant {
            None if checkpoint => return self.checkpoint().await,
            None => match models.as_slice() {
                [one] => one,
                [] => return Err(self.nothing()),
                _ => return Ok(Seen::Several(self.offers(&models).await?)),
            },
            label => match ggufs::choose(&models, label.as_deref()) {
                Choice::One(model) => model,
                Choice::Several(several) => {
                    return Err(Error::WhichGguf {
                        id: id.clone(),
                        names: ggufs::unique_labels(&models, several),
                    });
                }
                Choice::None if checkpoint => return self.checkpoint().await,
                Choice::None if models.is_empty() => return Err(self.nothing()),
                Choice::None => {
                    return Err(Error::NoSuchLabel {
                        id: id.clone(),
                        names: ggufs::unique_labels(&models, &models),
                    });
                }
            },
        };
        let files = self.files_of(model)?;
        self.start(files.len());
        self.ggufs(&files).await?;
        Ok(Seen::Gguf {
            path: self.folder.join(&model.files[0]),
            bytes: sum(&files),
            model: model.clone(),
        })
    }

    fn nothing(&self) -> Error {
        Error::NothingThere {
            repo: self.remote.repo.to_owned(),
            wanted: "GGUF file and no checkpoint".to_owned(),
            found: self.listing.keys().take(8).cloned().collect(),
            checkpoint: false,
        }
    }

    fn start(&self, files: usize) {
        let what = format!("reading headers of {}", self.remote.repo);
        let progress = self.remote.progress;
        progress.start(&what, Unit::Items("files"), files as u64, 0);
    }

    /// Returns the files of a model, all of which must be in the listing.
    fn files_of(&self, model: &GgufModel) -> Result<Vec<&'a Listed>, Error> {
        if !model.complete {
            return Err(Error::NothingThere {
                repo: self.remote.repo.to_owned(),
                wanted: format!("complete set of the parts of {}", model.name),
                found: model.files.clone(),
                checkpoint: false,
            });
        }
        model.files.iter().map(|name| self.listed(name)).collect()
    }

    /// Returns a file of the listing after checking its name and length.
    fn listed(&self, name: &str) -> Result<&'a Listed, Error> {
        let repo = || self.remote.repo.to_owned();
        select::safe_name(name).map_err(|source| Error::Select {
            repo: repo(),
            source,
        })?;
        let file = self.listing.get(name).ok_or_else(|| Error::NoShard {
            repo: repo(),
            shard: name.to_owned(),
        })?;
        match file.size {
            0..=LONGEST_FILE => Ok(file),
            size => Err(self
                .remote
                .malformed(&format!("it lists {name} with {}", super::bytes(size)))),
        }
    }

    /// Lists every GGUF model. One header is read for each name.
    async fn offers(&self, models: &[GgufModel]) -> Result<Vec<Offer>, Error> {
        let mut sized = Vec::new();
        for model in models.iter().filter(|model| model.complete) {
            sized.push((model, self.files_of(model)?));
        }
        sized.sort_by_key(|(_, files)| (files.len(), sum(files)));
        let mut headers: BTreeMap<String, PathBuf> = BTreeMap::new();
        self.start(1);
        for (model, files) in &sized {
            if headers.len() == MOST_BASES || headers.contains_key(&model.base()) {
                continue;
            }
            match self.ggufs(files).await {
                // One header is enough for a list.
                Err(Error::HeaderTooLong { .. }) if !headers.is_empty() => break,
                read => read?,
            }
            headers.insert(model.base(), self.folder.join(&model.files[0]));
        }
        let offer = |(model, files): (&GgufModel, Vec<&Listed>)| Offer {
            label: ggufs::unique_label(models, model),
            bytes: sum(&files),
            header: headers.get(&model.base()).cloned(),
            model: model.clone(),
        };
        let mut offers: Vec<Offer> = sized.into_iter().map(offer).collect();
        offers.sort_by_key(|offer| offer.bytes);
        Ok(offers)
    }

    /// Reads the headers of GGUF files.
    async fn ggufs(&self, files: &[&Listed]) -> Result<(), Error> {
        self.several(files, async |file| {
            let mut head = Vec::new();
            let mut to = match file.name == files[0].name {
                true => FIRST_OF_GGUF,
                false => FIRST_OF_SHARD,
            };
            loop {
                self.extend(file, &mut head, to).await?;
                let len = head.len() as u64;
                // An invalid header is reported by the code that opens the file.
                match Header::parse_prefix(&head, file.size) {
                    Ok(None) if len < file.size => to = len * 2,
                    _ => return Ok(head),
                }
            }
        })
        .await
    }

    async fn checkpoint(&self) -> Result<Seen, Error> {
        let mut small = Vec::new();
        for name in DESCRIPTION.iter().chain([&select::INDEX]) {
            let Some(file) = self.listing.get(*name) else {
                continue;
            };
            // The model card is optional.
            if *name != "README.md" || select::is_description(name, file.size) {
                small.push(self.listed(name)?);
            }
        }
        self.start(small.len() + 1);
        self.several(&small, async |file| {
            let mut whole = Vec::new();
            self.extend(file, &mut whole, file.size).await?;
            Ok(whole)
        })
        .await?;
        let names = match self.listing.contains_key(select::INDEX) {
            false => vec![select::SINGLE.to_owned()],
            true => {
                let path = self.folder.join(select::INDEX);
                let index = fs::read(&path).map_err(|source| Error::Read { path, source })?;
                select::shards_of_index(&index).map_err(|source| Error::Select {
                    repo: self.remote.repo.to_owned(),
                    source,
                })?
            }
        };
        let shards = names.iter().map(|name| self.listed(name));
        let shards: Vec<&Listed> = shards.collect::<Result<_, _>>()?;
        self.start(shards.len());
        self.several(&shards, async |file| {
            let mut head = Vec::new();
            self.extend(file, &mut head, FIRST_OF_SHARD).await?;
            if let Some(len) = head.first_chunk::<8>() {
                let end = u64::from_le_bytes(*len).saturating_add(8);
                // An impossible length is reported by the code that opens the file.
                if end <= file.size {
                    self.extend(file, &mut head, end).await?;
                }
            }
            Ok(head)
        })
        .await?;
        Ok(Seen::Checkpoint {
            folder: self.folder.clone(),
            bytes: sum(&shards),
        })
    }

    /// Reads the beginnings of several files at the same time and writes each to the folder.
    async fn several(
        &self,
        files: &[&Listed],
        head: impl AsyncFn(&Listed) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        let head = &head;
        stream::iter(files.iter().copied())
            .map(|file| async move {
                let head = head(file).await?;
                self.write(file, &head)?;
                self.remote.progress.advance(1);
                Ok(())
            })
            .buffer_unordered(self.remote.options.parallel.max(1))
            .try_collect()
            .await
    }

    /// Writes the part of a file that was read, and extends the file to its full length.
    fn write(&self, file: &Listed, head: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(&file.name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
            let mut to = fs::File::create_new(&path)?;
            to.write_all(head)?;
            to.set_len(file.size)
        };
        write().map_err(|e| write_error(&path, e))
    }

    /// Reads more of a file, up to byte `to` or its end.
    async fn extend(&self, file: &Listed, head: &mut Vec<u8>, to: u64) -> Result<(), Error> {
        let (from, to) = (head.len() as u64, to.min(file.size));
        if from >= to {
            return Ok(());
        }
        if self.read.load(Ordering::Relaxed).saturating_add(to - from) > MOST_READ {
            return Err(Error::HeaderTooLong {
                file: file.name.clone(),
                limit: MOST_READ,
            });
        }
        let read = self
            .remote
            .retrying(async || self.receive(file, from, to).await);
        head.extend(read.await.map_err(|error| match error {
            Error::Cut { file, at, why, .. } => Error::Cut {
                file,
                at,
                why,
                attempts: self.remote.options.attempts,
            },
            error => error,
        })?);
        Ok(())
    }

    /// Receives bytes `from` to `to` of a file. A server that ignores ranges sends the bytes before
    /// them as well.
    async fn receive(&self, file: &Listed, from: u64, to: u64) -> Result<Vec<u8>, Failure> {
        let span = Span { from, to: Some(to) };
        let mut answer = self.remote.get(self.commit, &file.name, span).await?;
        let mut skip = self.skipped(file, from, &answer)?;
        let mut bytes = Vec::new();
        loop {
            let left = (to - from) as usize - bytes.len();
            if left == 0 {
                return Ok(bytes);
            }
            let why = match answer.chunk().await {
                Ok(Some(chunk)) => {
                    self.read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    let before = skip.min(chunk.len() as u64);
                    skip -= before;
                    let chunk = &chunk[before as usize..];
                    bytes.extend_from_slice(&chunk[..chunk.len().min(left)]);
                    continue;
                }
                Ok(None) => "it ends too early".to_owned(),
                Err(e) => words(&e),
            };
            let error = Error::Cut {
                file: file.name.clone(),
                attempts: 1,
                at: from + bytes.len() as u64,
                why,
            };
            return Err(Failure::Passing(error, None));
        }
    }

    /// Returns the number of bytes of the answer before those that were asked for.
    fn skipped(&self, file: &Listed, from: u64, answer: &Response) -> Result<u64, Failure> {
        let wrong_length = |got| {
            Failure::Lasting(Error::WrongLength {
                file: file.name.clone(),
                stated: file.size,
                got,
            })
        };
        match answer.status() {
            StatusCode::OK => match answer.content_length() {
                Some(got) if got != file.size => Err(wrong_length(got)),
                _ => Ok(from),
            },
            StatusCode::PARTIAL_CONTENT => match content_range(answer.headers()) {
                Some((start, total)) if start == from => match total {
                    Some(total) if total != file.size => Err(wrong_length(total)),
                    _ => Ok(0),
                },
                _ => Err(self.remote.malformed("another range than asked for").into()),
            },
            status => Err(self
                .remote
                .malformed(&format!("{status} where a range of a file was expected"))
                .into()),
        }
    }
}

fn sum(files: &[&Listed]) -> u64 {
    files
        .iter()
        .fold(0, |sum, file| sum.saturating_add(file.size))
}
