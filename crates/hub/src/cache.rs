//! The Hub's cache folder, in the layout that every Hugging Face library shares:
//!
//! ```text
//! $HF_HUB_CACHE or $HF_HOME/hub or ~/.cache/huggingface/hub
//!   models--org--name/
//!     blobs/SHA             the bytes; SHA-256 for large files, git's SHA-1 for small ones
//!     blobs/SHA.incomplete  the first part of them
//!     snapshots/COMMIT/FILE a link to ../../blobs/SHA
//!     refs/REVISION         the commit that a branch or tag stood for
//!   .locks/models--org--name/SHA.lock
//! ```
//!
//! Files that Python's `huggingface_hub` fetched are therefore used without another download, and
//! the other way round.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use modelve_base::infile;

use super::{HubId, own};

/// Limit in bytes of a file below `refs`, which holds the 40 digits of a commit.
const LONGEST_REF: u64 = 4096;

/// The cache folder, which need not exist.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// The files of one repository at one commit that have been fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder of links.
    pub folder: PathBuf,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
}

impl Cache {
    /// The folder that the environment names, as `huggingface_hub` finds it.
    pub fn from_env() -> Cache {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = set("HF_HUB_CACHE")
            .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from)
            .unwrap_or_else(|| hf_home().join("hub"));
        Cache { root }
    }

    /// A cache in a folder of the caller's choice.
    pub fn in_folder(root: impl Into<PathBuf>) -> Cache {
        Cache { root: root.into() }
    }

    /// The cache folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn repo_folder(&self, repo: &str) -> PathBuf {
        self.root
            .join(hf_hub::Repo::model(repo.to_owned()).folder_name())
    }

    /// The path of the verified bytes with this hash.
    pub(super) fn blob(&self, repo: &str, hash: &str) -> PathBuf {
        self.repo_folder(repo).join("blobs").join(hash)
    }

    /// The path of the part file that receives those bytes until they are verified.
    pub(super) fn incomplete(&self, repo: &str, hash: &str) -> PathBuf {
        self.repo_folder(repo)
            .join("blobs")
            .join(format!("{hash}.incomplete"))
    }

    /// The folder of a commit's files, whether it exists or not.
    pub(super) fn snapshot_folder(&self, repo: &str, commit: &str) -> PathBuf {
        let layout = hf_hub::Cache::new(self.root.clone());
        layout.model(repo.to_owned()).pointer_path(commit)
    }

    /// The snapshot of the revision that `id` names, without asking the Hub. Where the cache does
    /// not say which commit the main branch stands for, as in a copy of nothing but a snapshot, and
    /// holds only one commit, that one is returned.
    pub fn snapshot(&self, id: &HubId) -> Option<Snapshot> {
        let revision = id.revision.as_deref().unwrap_or("main");
        let commit = match self.read_ref(&id.repo, revision) {
            Ok(commit) => commit,
            Err(_) if id.revision.is_some() => revision.to_ascii_lowercase(),
            Err(_) => match self.commits(&id.repo).as_slice() {
                [only] => only.clone(),
                _ => return None,
            },
        };
        if !is_commit(&commit) {
            return None;
        }
        let folder = self.snapshot_folder(&id.repo, &commit);
        folder.is_dir().then_some(Snapshot { folder, commit })
    }

    /// The commits of which the cache holds any file, sorted.
    pub fn commits(&self, repo: &str) -> Vec<String> {
        let snapshots = self.repo_folder(repo).join("snapshots");
        let entries = fs::read_dir(snapshots).into_iter().flatten().flatten();
        let mut commits: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_commit(name))
            .collect();
        commits.sort();
        commits
    }

    /// The repositories of which the cache holds anything, as `org/name`.
    pub fn repos(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        let mut repos: Vec<String> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (org, name) = name.strip_prefix("models--")?.split_once("--")?;
                Some(format!("{org}/{name}"))
            })
            .collect();
        repos.sort();
        repos
    }

    /// Reads which commit a branch or tag stood for.
    fn read_ref(&self, repo: &str, revision: &str) -> io::Result<String> {
        let path = self.repo_folder(repo).join("refs").join(revision);
        let bytes = infile::regular(&path, LONGEST_REF)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Records which commit a branch or tag stands for.
    pub(super) fn write_ref(&self, repo: &str, revision: &str, commit: &str) -> io::Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.repo_folder(repo).join("refs").join(revision);
        // A shared cache may be read-only, so nothing is written if the file is right already.
        if self
            .read_ref(repo, revision)
            .is_ok_and(|there| there == commit)
        {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
            let file = tempfile::NamedTempFile::new_in(parent)?;
            fs::write(file.path(), commit)?;
            file.persist(path).map_err(|e| e.error)?;
        }
        Ok(())
    }

    /// Links a verified blob under its name in the snapshot of `commit`. The caller has checked
    /// that `file` stays below the folder.
    pub(super) fn link(&self, repo: &str, commit: &str, file: &str, hash: &str) -> io::Result<()> {
        let blob = self.blob(repo, hash);
        let pointer = self.snapshot_folder(repo, commit).join(file);
        if same_file(&pointer, &blob) {
            return Ok(());
        }
        let parent = pointer.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent)?;
        // The link is created under another name and renamed, because another process may be
        // reading the old one.
        let place = tempfile::Builder::new()
            .prefix(".link-")
            .tempdir_in(parent)?;
        let temporary = place.path().join("link");
        let depth = Path::new(file).components().count() + 1;
        let mut target: PathBuf = std::iter::repeat_n("..", depth).collect();
        target.push("blobs");
        target.push(hash);
        if symlink(&target, &temporary).is_err() {
            // Symbolic links may be missing, as on Windows without the right to create them.
            fs::hard_link(&blob, &temporary).or_else(|_| fs::copy(&blob, &temporary).map(drop))?;
        }
        fs::rename(&temporary, &pointer)
    }

    /// Tries to lock the blob with this hash, with the lock that other Hugging Face libraries use
    /// as well. Returns `None` while another process holds it.
    pub(super) fn try_lock(&self, repo: &str, hash: &str) -> io::Result<Option<File>> {
        let name = hf_hub::Repo::model(repo.to_owned()).folder_name();
        let folder = self.root.join(".locks").join(name);
        fs::create_dir_all(&folder)?;
        let file = own::open_to_append(&folder.join(format!("{hash}.lock")))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            // The file system has no locks. Going on without one is safe, because the content is
            // verified before it is used.
            Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                Ok(Some(file))
            }
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }
}

/// `$HF_HOME`, or its default folder.
pub(super) fn hf_home() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(home) = set("HF_HOME") {
        return PathBuf::from(home);
    }
    let cache = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"));
    cache.join("huggingface")
}

/// Returns whether a text is a full commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_point_into_blobs_and_replace_stale_ones() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(dir.path());
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (hash, text) in [("aa", "old"), ("bb", "new")] {
            let blob = cache.blob("o/n", hash);
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::write(&blob, text).unwrap();
            cache.link("o/n", commit, "sub/x.gguf", hash).unwrap();
        }
        let file = cache.snapshot_folder("o/n", commit).join("sub/x.gguf");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(
            fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1,
            "no temporary is left"
        );
    }

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(dir.path());
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let id = |text: &str| text.parse::<HubId>().unwrap();
        assert_eq!(cache.snapshot(&id("o/n")), None);
        fs::create_dir_all(cache.snapshot_folder("o/n", commit)).unwrap();
        let there = cache.snapshot(&id("o/n")).unwrap();
        assert_eq!(there.commit, commit, "the only one there is");
        assert_eq!(cache.snapshot(&id("o/n@v1")), None);
        let other = "f".repeat(40);
        fs::create_dir_all(cache.snapshot_folder("o/n", &other)).unwrap();
        assert_eq!(cache.snapshot(&id("o/n")), None, "main is not known");
        assert_eq!(cache.commits("o/n"), [commit, other.as_str()]);
        cache.write_ref("o/n", "refs/pr/1", commit).unwrap();
        assert_eq!(cache.snapshot(&id("o/n@refs/pr/1")).unwrap(), there);
        assert_eq!(there.commit, commit);
        assert_eq!(
            cache.snapshot(&id(&format!("o/n@{commit}"))).unwrap(),
            there
        );
        assert_eq!(cache.repos(), ["o/n"]);
    }

    #[test]
    fn hf_hub_finds_what_is_linked_here() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(dir.path());
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let blob = cache.blob("o/n", "aa");
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "text").unwrap();
        cache.link("o/n", commit, "sub/x.gguf", "aa").unwrap();
        cache.write_ref("o/n", "main", commit).unwrap();
        let theirs = hf_hub::Cache::new(dir.path().to_owned()).model("o/n".to_owned());
        let found = theirs.get("sub/x.gguf").unwrap();
        assert_eq!(fs::read_to_string(found).unwrap(), "text");
        assert_eq!(theirs.get("sub/y.gguf"), None);
    }

    #[test]
    fn a_ref_that_holds_no_commit_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(dir.path());
        let refs = dir.path().join("models--o--n/refs");
        fs::create_dir_all(&refs).unwrap();
        fs::create_dir_all(cache.snapshot_folder("o/n", &"a".repeat(40))).unwrap();
        fs::write(refs.join("main"), "../../../etc").unwrap();
        assert_eq!(cache.snapshot(&"o/n".parse().unwrap()), None);
    }
}
