//! Which GPUs there are, and which one is taken.

use crate::compile::Arch;
use crate::driver::{self, DeviceInfo, symbols};
use crate::error::CudaError;

/// A GPU as a person tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// Number for `--device`, which is the driver's.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Compute capability: major and minor.
    pub capability: (u32, u32),
    /// Memory in bytes.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory of a block, in bytes.
    pub shared: u32,
    /// Level 2 cache, in bytes.
    pub cache: u64,
    /// CUDA version of the driver.
    pub driver: String,
}

impl DeviceReport {
    pub(crate) fn of(info: &DeviceInfo, driver: (u32, u32)) -> Self {
        Self {
            index: usize::try_from(info.ordinal).unwrap_or(0),
            name: info.name.clone(),
            capability: info.capability,
            memory: info.memory,
            multiprocessors: info.multiprocessors,
            shared: info.shared,
            cache: info.cache,
            driver: format!("CUDA {}", symbols::version(driver)),
        }
    }

    /// Name and architecture, such as `NVIDIA H200 (CUDA, sm_90)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} (CUDA, {})", self.name, self.arch())
    }

    /// Its architecture.
    #[must_use]
    pub fn arch(&self) -> Arch {
        Arch::of(self.capability)
    }

    /// Whether kernels run on it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.arch() >= Arch::LEAST
    }
}

/// Which GPU is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first that kernels run on: drivers list the fastest first.
    #[default]
    Best,
    /// The one with this number in [`list`].
    Index(usize),
    /// The first whose name contains this text, whatever its case.
    Name(String),
}

impl std::str::FromStr for Choice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Index))
    }
}

/// All GPUs that the driver knows, in its order.
///
/// # Errors
///
/// If there is no driver, or it is too old.
pub fn list() -> Result<Vec<DeviceReport>, CudaError> {
    let version = symbols::driver()?;
    Ok(driver::devices()?.iter().map(|info| DeviceReport::of(info, version)).collect())
}

/// The one of `reports` that a choice means.
#[must_use]
pub fn choose<'a>(reports: &'a [DeviceReport], choice: &Choice) -> Option<&'a DeviceReport> {
    let fits = |report: &&DeviceReport| match choice {
        Choice::Best => report.is_usable(),
        Choice::Index(index) => report.index == *index,
        Choice::Name(name) => report.name.to_lowercase().contains(&name.to_lowercase()),
    };
    // Of two of one name the one that works.
    reports.iter().find(|report| fits(report) && report.is_usable()).or_else(|| reports.iter().find(fits))
}

/// Takes a GPU.
///
/// # Errors
///
/// [`CudaError::NoDevice`] lists what there is; [`CudaError::OldDevice`].
pub(crate) fn take(choice: &Choice) -> Result<(DeviceInfo, DeviceReport), CudaError> {
    let version = symbols::driver()?;
    let infos = driver::devices()?;
    let reports: Vec<_> = infos.iter().map(|info| DeviceReport::of(info, version)).collect();
    let Some(report) = choose(&reports, choice) else {
        if let (Choice::Best, Some(report)) = (choice, reports.first()) {
            return Err(old(report));
        }
        let wanted = match choice {
            Choice::Best => "in this machine".to_owned(),
            Choice::Index(index) => format!("number {index}"),
            Choice::Name(name) => format!("named `{name}`"),
        };
        let names: Vec<_> = reports.iter().map(|r| format!("{}: {}", r.index, r.title())).collect();
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(CudaError::NoDevice { wanted, found });
    };
    if !report.is_usable() {
        return Err(old(report));
    }
    Ok((infos[report.index].clone(), report.clone()))
}

fn old(report: &DeviceReport) -> CudaError {
    let capability = symbols::version(report.capability);
    CudaError::OldDevice { name: report.name.clone(), capability }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> Vec<DeviceReport> {
        [("NVIDIA TITAN V", (7, 0)), ("NVIDIA H200", (9, 0)), ("NVIDIA GeForce RTX 3090", (8, 6))]
            .into_iter()
            .enumerate()
            .map(|(index, (name, capability))| DeviceReport {
                index,
                name: name.to_owned(),
                capability,
                memory: 24 << 30,
                multiprocessors: 82,
                shared: 99 << 10,
                cache: 6 << 20,
                driver: "CUDA 13.0".to_owned(),
            })
            .collect()
    }

    #[test]
    fn the_first_that_works_is_taken_unless_another_is_named() {
        let reports = reports();
        let taken = |text: &str| {
            let choice = text.parse().unwrap();
            choose(&reports, &choice).map(|report| report.index)
        };
        assert_eq!(choose(&reports, &Choice::Best).map(|report| report.index), Some(1));
        assert_eq!(
            [taken("2"), taken("rtx 3090"), taken("nvidia"), taken("titan")],
            [Some(2), Some(2), Some(1), Some(0)]
        );
        assert_eq!([taken("3"), taken("voodoo")], [None, None]);
        assert_eq!(choose(&reports[..1], &Choice::Best), None);
    }

    #[test]
    fn a_title_says_what_code_runs_on_it() {
        assert_eq!(reports()[2].title(), "NVIDIA GeForce RTX 3090 (CUDA, sm_86)");
    }
}
