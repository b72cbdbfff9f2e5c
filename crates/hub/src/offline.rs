//! A model from what is here, without asking anybody.

use std::fs;
use std::path::Path;

use super::{Cache, Error, Fetched, HubId, Wanted, select};

/// Finds what is wanted in the cache.
///
/// # Errors
/// [`Error::Offline`] names what is missing.
pub(super) fn find(id: &HubId, wanted: Wanted, cache: &Cache) -> Result<Fetched, Error> {
    let offline = |missing| Error::Offline {
        id: id.clone(),
        missing,
    };
    let Some(snapshot) = cache.snapshot(id) else {
        return Err(offline(vec!["everything".to_owned()]));
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
            let models = select::gguf_models_in(&snapshot.folder);
            match select::choose_gguf(&id.repo, &models, id.quant.as_deref()) {
                Ok(model) if model.complete => {
                    Ok(fetched(Some(snapshot.folder.join(&model.files[0]))))
                }
                Ok(model) => Err(offline(vec![format!("parts of {}", model.stem)])),
                Err(Error::NothingThere { wanted, .. }) => Err(offline(vec![wanted])),
                Err(error) => Err(error),
            }
        }
        Wanted::Any => find(id, Wanted::Checkpoint, cache)
            .or_else(|error| find(id, Wanted::Gguf, cache).map_err(|_| error)),
    }
}

/// The files that a checkpoint cannot do without and that are not in `folder`.
pub(crate) fn missing_of_checkpoint(
    folder: &Path,
    weights: bool,
) -> Result<Vec<String>, select::SelectError> {
    let absent = |name: &String| !folder.join(name).is_file();
    let mut needed = vec!["config.json".to_owned()];
    if weights {
        match fs::read(folder.join(select::INDEX)) {
            Ok(index) => needed.extend(select::shards_of_index(&index)?),
            Err(_) => needed.push(select::SINGLE.to_owned()),
        }
    }
    Ok(needed.into_iter().filter(absent).collect())
}
