//! Finding the files of a fetch in the cache, without the network.

use std::io;
use std::path::Path;

use modelve_base::infile;

use super::ggufs::{self, Choice};
use super::{Cache, Error, Fetched, HubId, Wanted, select};

/// Finds the wanted files in the cache.
///
/// # Errors
/// [`Error::Offline`] names what is missing.
pub(super) fn find(id: &HubId, wanted: Wanted, cache: &Cache) -> Result<Fetched, Error> {
    let offline = |missing| Error::Offline {
        id: id.clone(),
        missing,
    };
    let Some(snapshot) = cache.snapshot(id) else {
        return Err(offline(match cache.commits(&id.repo).as_slice() {
            [] => vec!["everything".to_owned()],
            commits => vec![format!(
                "which commit `{}` stands for (here: {})",
                id.revision.as_deref().unwrap_or("main"),
                commits.join(", ")
            )],
        }));
    };
    let fetched = |gguf| Fetched {
        folder: snapshot.folder.clone(),
        commit: snapshot.commit.clone(),
        repo: id.repo.clone(),
        gguf,
        received: 0,
    };
    let of_checkpoint = |weights| missing_of_checkpoint(&snapshot.folder, weights);
    match wanted {
        Wanted::Description | Wanted::Checkpoint => {
            let missing =
                of_checkpoint(wanted == Wanted::Checkpoint).map_err(|source| Error::Select {
                    repo: id.repo.clone(),
                    source,
                })?;
            if missing.is_empty() {
                Ok(fetched(None))
            } else {
                Err(offline(missing))
            }
        }
        Wanted::Gguf => {
            let models = ggufs::gguf_models_in(&snapshot.folder);
            match ggufs::choose(&models, id.quant.as_deref()) {
                Choice::One(model) if model.complete => {
                    Ok(fetched(Some(snapshot.folder.join(&model.files[0]))))
                }
                Choice::One(model) => Err(offline(vec![format!("parts of {}", model.name)])),
                Choice::Several(several) => Err(Error::WhichGguf {
                    id: id.clone(),
                    names: ggufs::unique_labels(&models, several),
                }),
                Choice::None => Err(offline(vec![match &id.quant {
                    Some(label) => format!("the GGUF file {label}"),
                    None => "the GGUF file".to_owned(),
                }])),
            }
        }
        Wanted::Any => find(id, Wanted::Checkpoint, cache)
            .or_else(|error| find(id, Wanted::Gguf, cache).map_err(|_| error)),
    }
}

/// The files that a checkpoint needs and that `folder` lacks.
pub(crate) fn missing_of_checkpoint(
    folder: &Path,
    weights: bool,
) -> Result<Vec<String>, select::SelectError> {
    let absent = |name: &String| !folder.join(name).is_file();
    let mut needed = vec!["config.json".to_owned()];
    if weights {
        let index = folder.join(select::INDEX);
        match infile::regular(&index, select::LARGEST_INDEX) {
            Ok(index) => needed.extend(select::shards_of_index(&index)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                needed.push(select::SINGLE.to_owned());
            }
            Err(e) => {
                let why = e.to_string();
                return Err(select::SelectError::BadIndex { why });
            }
        }
    }
    Ok(needed.into_iter().filter(absent).collect())
}
