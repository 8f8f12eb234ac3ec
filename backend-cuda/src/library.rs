//! Where NVRTC and cuBLASLt may be when the loader does not find them.
//!
//! On Linux CUDA is often there without the loader knowing: as a toolkit below `/usr/local`, or as packages of pip,
//! which `PyTorch` brings along. On Windows the loader's own search (`PATH`, into which CUDA's installer writes) is all.

use std::collections::HashSet;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Folders below the root of a toolkit.
const OF_TOOLKIT: [&str; 3] = ["lib64", "targets/*/lib", "lib"];
/// Folders below `site-packages`: of CUDA 13, and two of CUDA 12.
const OF_PIP: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cublas/lib"];
/// Where a Python below a prefix has its packages.
const OF_PREFIX: [&str; 4] = [
    "lib/python3*/site-packages",
    "lib64/python3*/site-packages",
    "lib/python3*/dist-packages",
    "lib/python3/dist-packages",
];
/// Major versions that cudarc finds once they are loaded, the newest first.
const MAJORS: [u32; 2] = [13, 12];

/// What the search goes by.
#[derive(Clone, Debug, Default)]
struct Surroundings {
    /// `/`, but for tests.
    root: PathBuf,
    /// `CUDA_HOME` and `CUDA_PATH`.
    toolkits: Vec<PathBuf>,
    /// `VIRTUAL_ENV` and `CONDA_PREFIX`.
    environments: Vec<PathBuf>,
    /// Folders in which programs are found.
    path: Vec<PathBuf>,
    home: Option<PathBuf>,
}

impl Surroundings {
    fn of_this_process() -> Self {
        let folders = |names: &[&str]| {
            let set = names.iter().filter_map(|name| env::var_os(name).filter(|value| !value.is_empty()));
            set.map(PathBuf::from).collect()
        };
        Self {
            root: PathBuf::from("/"),
            toolkits: folders(&["CUDA_HOME", "CUDA_PATH"]),
            environments: folders(&["VIRTUAL_ENV", "CONDA_PREFIX"]),
            path: env::var_os("PATH").map_or_else(Vec::new, |path| env::split_paths(&path).collect()),
            home: env::var_os("HOME").map(PathBuf::from),
        }
    }

    /// Folders to look into, the likeliest first.
    fn folders(&self) -> Vec<PathBuf> {
        let mut toolkits = self.toolkits.clone();
        for pattern in ["usr/local/cuda", "usr/local/cuda-*", "opt/cuda"] {
            toolkits.extend(matches(&self.root, pattern));
        }
        let mut folders = Vec::new();
        for toolkit in &toolkits {
            folders.extend(OF_TOOLKIT.iter().flat_map(|pattern| matches(toolkit, pattern)));
        }
        let mut prefixes = self.environments.clone();
        for folder in self.path.iter().filter(|folder| folder.join("python3").exists()) {
            prefixes.extend(folder.parent().map(Path::to_owned));
        }
        prefixes.extend(self.home.iter().map(|home| home.join(".local")));
        prefixes.extend([self.root.join("usr/local"), self.root.join("usr")]);
        for prefix in &prefixes {
            for packages in OF_PREFIX.iter().flat_map(|pattern| matches(prefix, pattern)) {
                folders.extend(OF_PIP.iter().flat_map(|pattern| matches(&packages, pattern)));
            }
        }
        let mut seen = HashSet::new();
        folders.retain(|folder| seen.insert(folder.clone()));
        folders
    }

    /// Files of `libNAME.so`, those of major version `prefer` first.
    fn files(&self, name: &str, prefer: Option<u32>) -> Vec<PathBuf> {
        let folders = self.folders();
        let files = majors(prefer).into_iter().flat_map(|major| {
            let file = file(name, major);
            folders.iter().map(move |folder| folder.join(&file)).collect::<Vec<_>>()
        });
        files.filter(|file| file.is_file()).collect()
    }
}

/// Major versions, `prefer` first.
fn majors(prefer: Option<u32>) -> [u32; 2] {
    let mut majors = MAJORS;
    majors.sort_by_key(|major| Some(*major) != prefer);
    majors
}

/// What a library is called on Linux.
fn file(name: &str, major: u32) -> String {
    format!("lib{name}.so.{major}")
}

/// The names that a loader may know a library by, the best first; none on Windows, where there are too many.
pub(crate) fn names(name: &str, driver_major: Option<u32>) -> Vec<String> {
    if cfg!(windows) {
        return Vec::new();
    }
    majors(driver_major).map(|major| file(name, major)).into()
}

/// Files of a library that the loader does not know, the best first, and where they were looked for.
pub(crate) fn files(name: &str, driver_major: Option<u32>) -> (Vec<PathBuf>, String) {
    if cfg!(windows) {
        return (Vec::new(), format!("{name}64_*.dll is in no folder of PATH"));
    }
    let found = Surroundings::of_this_process().files(name, driver_major);
    let searched = format!(
        "lib{name}.so.13 or .so.12 is neither known to the loader nor below CUDA_HOME, /usr/local/cuda*, the virtual \
         environment or the packages of python3"
    );
    (found, searched)
}

/// What a library opens by its name, as an NVRTC does when it compiles: one that lies beside it, where the loader does not
/// look.
pub(crate) fn companions(name: &str, path: &Path) -> Vec<PathBuf> {
    let major = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let start = format!("lib{name}-builtins.so.{major}.");
    let entries = path.parent().and_then(|folder| folder.read_dir().ok());
    let files = entries.into_iter().flatten().flatten();
    files
        .filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with(&start)))
        .map(|file| file.path())
        .collect()
}

/// Folders below `base` that a pattern means: names with at most one `*`, which stands for any characters. Of several
/// the last in the order of versions comes first.
fn matches(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![base.to_owned()];
    for part in pattern.split('/') {
        let Some((start, end)) = part.split_once('*') else {
            found = found.iter().map(|folder| folder.join(part)).collect();
            continue;
        };
        let mut next = Vec::new();
        for entries in found.iter().filter_map(|folder| folder.read_dir().ok()) {
            let fits = |name: &OsStr| {
                let name = name.to_str().unwrap_or_default();
                name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
            };
            let mut paths: Vec<PathBuf> = entries
                .flatten()
                .filter(|entry| fits(&entry.file_name()))
                .map(|entry| entry.path())
                .collect();
            paths.sort_by_key(|path| std::cmp::Reverse(numbers(path)));
            next.extend(paths);
        }
        found = next;
    }
    found.retain(|folder| folder.is_dir());
    found
}

/// The numbers in a file's name, by which `cuda-12.9` comes before `cuda-12.10`.
fn numbers(path: &Path) -> Vec<u32> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, file: &str) -> PathBuf {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        path
    }

    #[test]
    fn every_usual_place_is_searched_in_the_order_of_likelihood() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let files = [
            "home/cuda/targets/x86_64-linux/lib/libnvrtc.so.13",
            "usr/local/cuda-13.1/lib64/libnvrtc.so.13",
            "usr/local/cuda-13.0/lib64/libnvrtc.so.13",
            "env/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
            "opt/python/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
            "home/.local/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
            "usr/lib/python3/dist-packages/nvidia/cu13/lib/libnvrtc.so.13",
            "usr/local/cuda-12.10/lib64/libnvrtc.so.12",
            "usr/local/cuda-12.9/lib64/libnvrtc.so.12",
            "env/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        ]
        .map(|file| touch(root, file));
        touch(root, "opt/python/bin/python3");
        touch(root, "usr/local/cuda-13.0/lib64/libnvrtc.so.11");
        let here = Surroundings {
            root: root.to_owned(),
            toolkits: vec![root.join("home/cuda")],
            environments: vec![root.join("env")],
            path: vec![root.join("bin"), root.join("opt/python/bin")],
            home: Some(root.join("home")),
        };
        assert_eq!(here.files("nvrtc", None), files);
        assert_eq!(here.files("nvrtc", Some(13)), files);
        let (newer, older) = files.split_at(7);
        assert_eq!(here.files("nvrtc", Some(12)), [older, newer].concat());
    }

    #[test]
    fn pip_has_a_folder_for_each_library_of_cuda_12_and_one_for_all_of_13() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let packages = "env/lib/python3.12/site-packages/nvidia";
        let files = [
            touch(root, &format!("{packages}/cublas/lib/libcublasLt.so.12")),
            touch(root, &format!("{packages}/cu13/lib/libcublasLt.so.13")),
        ];
        touch(root, &format!("{packages}/cublas/lib/libcublas.so.12"));
        let environments = vec![root.join("env")];
        let here = Surroundings { root: root.to_owned(), environments, ..Surroundings::default() };
        assert_eq!(here.files("cublasLt", Some(12)), files);
        assert_eq!(names("cublasLt", Some(12))[0], "libcublasLt.so.12");
    }

    #[test]
    fn an_nvrtc_brings_the_library_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let compiler = touch(folder.path(), "libnvrtc.so.13");
        let beside = touch(folder.path(), "libnvrtc-builtins.so.13.0");
        touch(folder.path(), "libnvrtc-builtins.so.12.9");
        touch(folder.path(), "libnvrtc-builtins.alt.so.13.0");
        assert_eq!(companions("nvrtc", &compiler), [beside]);
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let here = Surroundings { root: folder.path().to_owned(), ..Surroundings::default() };
        assert!(here.files("nvrtc", Some(13)).is_empty());
    }
}
