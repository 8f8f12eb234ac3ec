//! A vault in a folder: one file a page, one a conversation, written in the background.
//!
//! `FOLDER/<first 16 digits of the fingerprint>/<name>.page` and `<name>.kept`, each one [`record`](super::record). A
//! file is written under another name, synced and renamed, and a conversation's own file comes last: whatever is there
//! under its name is whole, and pages without a conversation are remains. Times of `.kept` files say who was used last.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use super::index::{Gone, Index};
use super::record::{self, Kind, OVERHEAD};
use super::saved::MAX_MANIFEST;
use super::{Key, Manifest, PageRef, VaultError};

/// Bytes that may wait to be written.
const IN_FLIGHT: u64 = 1 << 30;

type Shared<T> = Arc<Mutex<T>>;

/// A folder, locked for this process.
#[derive(Debug)]
pub(super) struct Folder {
    place: PathBuf,
    /// Bytes that wait to be written.
    waiting: Arc<AtomicU64>,
    warning: Shared<Option<String>>,
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

enum Job {
    Write { manifest: Manifest, pages: Vec<(Key, Vec<u8>)> },
    Remove(Gone),
    Touch(Key),
    Flush(Sender<()>),
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folder {
    pub(super) fn open(
        path: &Path,
        fingerprint: Key,
        index: &Shared<Index>,
    ) -> Result<(Self, Option<String>), VaultError> {
        let name = fingerprint.to_string();
        let place = path.join(&name[..16]);
        let io = |source| VaultError::Io { path: path.to_owned(), source };
        fs::create_dir_all(&place).map_err(io)?;
        let lock_path = path.join("lock");
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(VaultError::Locked { path: path.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        let damaged = scan(&place, &mut locked(index)).map_err(io)?;
        let files = if damaged == 1 { "1 file" } else { &format!("{damaged} files") };
        let warning =
            (damaged > 0).then(|| format!("{}: {files} damaged, ignored and removed", place.display()));

        let waiting = Arc::new(AtomicU64::new(0));
        let background = Shared::<Option<String>>::default();
        let (jobs, inbox) = channel();
        let writer = Writer {
            root: path.to_owned(),
            place: place.clone(),
            index: Arc::clone(index),
            waiting: Arc::clone(&waiting),
            warning: Arc::clone(&background),
        };
        writer.make_room();
        let writer = std::thread::Builder::new()
            .name("cache-writer".to_owned())
            .spawn(move || writer.run(&inbox))
            .map_err(io)?;
        let (jobs, writer) = (Some(jobs), Some(writer));
        Ok((Self { place, waiting, warning: background, jobs, writer, _lock: lock }, warning))
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        waiting == 0 || waiting.saturating_add(bytes) <= IN_FLIGHT
    }

    pub(super) fn write(&self, manifest: Manifest, pages: Vec<(Key, Vec<u8>)>) -> bool {
        let bytes = pages.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.send(Job::Write { manifest, pages })
    }

    pub(super) fn read(&self, page: &PageRef) -> Option<Vec<u8>> {
        let path = page_path(&self.place, &page.key);
        let found = File::open(&path)
            .map_err(record::Damage::Io)
            .and_then(|file| record::read(&mut BufReader::new(file), page.bytes as u64));
        match found {
            Ok(found) if found.kind == Kind::Page && found.key == page.key => Some(found.bytes),
            Ok(_) => self.complain(&path, "it is another page"),
            Err(error) => self.complain(&path, &error.to_string()),
        }
    }

    fn complain(&self, path: &Path, why: &str) -> Option<Vec<u8>> {
        let text = format!("{} is ignored and removed: {why}", path.display());
        locked(&self.warning).get_or_insert(text);
        None
    }

    pub(super) fn remove(&self, gone: &Gone) {
        let gone = Gone { key: gone.key, pages: gone.pages.clone() };
        self.send(Job::Remove(gone));
    }

    pub(super) fn touch(&self, key: &Key) {
        self.send(Job::Touch(*key));
    }

    pub(super) fn flush(&self) {
        let (done, wait) = channel();
        if self.send(Job::Flush(done)) {
            // An error means that the writer is gone, and so is what it had.
            let _ = wait.recv();
        }
    }

    pub(super) fn warning(&self) -> Option<String> {
        locked(&self.warning).take()
    }

    fn send(&self, job: Job) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }
}

impl Drop for Folder {
    /// Writes what was taken in.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so.
            let _ = writer.join();
        }
    }
}

struct Writer {
    root: PathBuf,
    place: PathBuf,
    index: Shared<Index>,
    waiting: Arc<AtomicU64>,
    warning: Shared<Option<String>>,
}

impl Writer {
    fn run(&self, inbox: &Receiver<Job>) {
        for job in inbox {
            match job {
                Job::Write { manifest, pages } => {
                    let bytes = pages.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                    if let Err(error) = self.write(manifest, &pages) {
                        let text = format!("cannot keep a conversation in {}: {error}", self.place.display());
                        locked(&self.warning).get_or_insert(text);
                    }
                    self.waiting.fetch_sub(bytes, Ordering::Relaxed);
                    self.make_room();
                }
                Job::Remove(gone) => self.remove(&gone),
                Job::Touch(key) => {
                    let times = FileTimes::new().set_modified(SystemTime::now());
                    // Best effort: it decides only who goes first.
                    let _ = File::options()
                        .append(true)
                        .open(kept_path(&self.place, &key))
                        .and_then(|file| file.set_times(times));
                }
                Job::Flush(done) => {
                    // Whoever asked may have left.
                    let _ = done.send(());
                }
            }
        }
    }

    fn write(&self, manifest: Manifest, pages: &[(Key, Vec<u8>)]) -> io::Result<()> {
        for (key, bytes) in pages {
            self.put(&page_path(&self.place, key), Kind::Page, key, bytes)?;
        }
        {
            let index = locked(&self.index);
            let brought = |wanted: &PageRef| pages.iter().any(|(key, _)| *key == wanted.key);
            // What was here when the conversation was taken in may have had to go since.
            if !manifest.pages.iter().all(|page| index.has_page(&page.key) || brought(page)) {
                for (key, _) in pages.iter().filter(|(key, _)| !index.has_page(key)) {
                    let _ = fs::remove_file(page_path(&self.place, key));
                }
                return Ok(());
            }
        }
        let key = manifest.key();
        self.put(&kept_path(&self.place, &key), Kind::Manifest, &key, &manifest.encode())?;
        // Names are safe once the folder is. Windows has no such call, and needs none.
        #[cfg(unix)]
        File::open(&self.place)?.sync_all()?;
        locked(&self.index).insert(manifest);
        Ok(())
    }

    /// Writes a file under another name, so that it is there whole or not at all.
    fn put(&self, path: &Path, kind: Kind, key: &Key, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.place.join("writing.part");
        let mut file = BufWriter::new(File::create(&temporary)?);
        record::write(&mut file, kind, key, bytes)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&temporary, path)
    }

    fn remove(&self, gone: &Gone) {
        // The conversation first: pages without one are remains, a conversation without pages is damage.
        let _ = fs::remove_file(kept_path(&self.place, &gone.key));
        for key in &gone.pages {
            // Another conversation may have brought the page again.
            if !locked(&self.index).has_page(key) {
                let _ = fs::remove_file(page_path(&self.place, key));
            }
        }
    }

    /// Keeps the limit, at the cost of other models' folders first.
    fn make_room(&self) {
        let (own, limit) = {
            let index = locked(&self.index);
            (index.stats().bytes, index.limit)
        };
        let mut others = others(&self.root, &self.place);
        let mut total: u64 = own + others.iter().map(|other| other.bytes).sum::<u64>();
        others.sort_by_key(|other| other.used);
        for other in others {
            if total <= limit {
                break;
            }
            for file in other.files {
                let _ = fs::remove_file(file);
            }
            let _ = fs::remove_dir(other.place);
            total -= other.bytes;
        }
        let gone = locked(&self.index).shrink();
        for gone in &gone {
            self.remove(gone);
        }
    }
}

fn page_path(place: &Path, key: &Key) -> PathBuf {
    place.join(format!("{key}.page"))
}

fn kept_path(place: &Path, key: &Key) -> PathBuf {
    place.join(format!("{key}.kept"))
}

/// Whether a file is one of ours, and its name.
fn named(path: &Path) -> Option<(Key, &str)> {
    let key = Key::parse(path.file_stem()?.to_str()?)?;
    let kind = path.extension()?.to_str()?;
    ["page", "kept"].contains(&kind).then_some((key, kind))
}

/// Finds what is whole, removes what is not, and says how many files were damaged.
fn scan(place: &Path, index: &mut Index) -> io::Result<usize> {
    let mut damaged = 0;
    let mut pages: HashMap<Key, u64> = HashMap::new();
    let mut kept = Vec::new();
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        let meta = fs::metadata(&path)?;
        match named(&path) {
            Some((key, "page")) => {
                pages.insert(key, meta.len());
            }
            Some((key, _)) => kept.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), key, path)),
            // A write that was cut short.
            None if path.extension().is_some_and(|extension| extension == "part") => {
                let _ = fs::remove_file(&path);
            }
            None => {}
        }
    }
    kept.sort();
    for (_, key, path) in kept {
        let read = File::open(&path).ok().and_then(|file| {
            let record = record::read(&mut BufReader::new(file), MAX_MANIFEST).ok()?;
            (record.kind == Kind::Manifest && record.key == key).then_some(record.bytes)
        });
        let manifest = read.and_then(|bytes| Manifest::decode(&bytes).ok()).filter(|manifest| {
            let there = |page: &PageRef| pages.get(&page.key) == Some(&(page.bytes as u64 + OVERHEAD));
            manifest.pages.iter().all(there)
        });
        if let Some(manifest) = manifest {
            index.insert(manifest);
        } else {
            damaged += 1;
            let _ = fs::remove_file(&path);
        }
    }
    for key in pages.keys().filter(|key| !index.has_page(key)) {
        let _ = fs::remove_file(page_path(place, key));
    }
    Ok(damaged)
}

/// The folder of another model.
struct Other {
    place: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
    used: SystemTime,
}

fn others(root: &Path, own: &Path) -> Vec<Other> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let place = entry.path();
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.len() == 16 && n.bytes().all(|b| b.is_ascii_hexdigit()));
        if place == own || !ours {
            continue;
        }
        let mut other = Other { files: Vec::new(), bytes: 0, used: SystemTime::UNIX_EPOCH, place };
        for file in fs::read_dir(&other.place).into_iter().flatten().flatten() {
            let path = file.path();
            let Some(meta) = named(&path).and_then(|_| file.metadata().ok()) else { continue };
            other.bytes += meta.len();
            other.used = other.used.max(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            other.files.push(path);
        }
        all.push(other);
    }
    all
}
