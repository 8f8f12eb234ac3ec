//! Failures that are known: of which backend, on which driver, with which message and why.
//!
//! A known failure is expected: it does not fail a run, but it does as soon as it passes, or fails in another way, so
//! that the table never outlives its reasons.

use crate::backends::Name;

/// A failure that is expected.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The backend.
    pub backend: Name,
    /// A part of the backend's title, such as the driver's name and version.
    pub driver: &'static str,
    /// The property that does not hold, as it is reported: an op such as `linear`, or a test such as `F1`.
    pub what: &'static str,
    /// A part of what the failure says.
    pub message: &'static str,
    /// Whose fault it is, and where that is recorded.
    pub reason: &'static str,
}

/// Every known failure.
pub const KNOWN: &[Known] = &[];

/// What a result means in the light of a table: `Ok(None)` is a failure that was expected.
///
/// # Errors
///
/// A failure that is not in the table, and a success that is.
pub fn judge<T, E: std::error::Error>(
    table: &[Known],
    (backend, title): (Name, &str),
    what: &str,
    result: Result<T, E>,
) -> Result<Option<T>, String> {
    let known = table
        .iter()
        .find(|known| known.backend == backend && known.what == what && title.contains(known.driver));
    match (result, known) {
        (Ok(value), None) => Ok(Some(value)),
        (Ok(_), Some(known)) => Err(format!(
            "{backend}: {what} is listed as failing ({}), but it passes: remove it",
            known.reason
        )),
        (Err(error), None) => Err(format!("{backend}: {what}: {}", chain(&error))),
        (Err(error), Some(known)) => {
            let text = chain(&error);
            if text.contains(known.message) {
                return Ok(None);
            }
            Err(format!("{backend}: {what}: {text}; expected was a failure with `{}`", known.message))
        }
    }
}

/// An error and all its causes, each once: some errors print their cause themselves.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn only_the_expected_failure_of_the_listed_driver_is_accepted() {
        let known = Known {
            backend: Name::Wgpu,
            driver: "SwiftShader",
            what: "linear",
            message: "is NaN",
            reason: "an example",
        };
        let table = [known];
        let judge = |backend, title, what, result: Result<usize, &str>| {
            let result = result.map_err(|text| Failure::False(text.to_owned()));
            judge(&table, (backend, title), what, result)
        };
        let swift = "SwiftShader Device (software, Vulkan)";
        assert_eq!(judge(Name::Wgpu, swift, "linear", Err("element 3 is NaN")), Ok(None));
        assert_eq!(judge(Name::Wgpu, swift, "add", Ok(3)), Ok(Some(3)));
        assert!(judge(Name::Wgpu, swift, "linear", Ok(3)).is_err(), "it passes");
        assert!(judge(Name::Wgpu, swift, "linear", Err("element 3 is 0")).is_err(), "another failure");
        assert!(judge(Name::Wgpu, swift, "add", Err("element 3 is NaN")).is_err(), "another op");
        assert!(judge(Name::Wgpu, "llvmpipe", "linear", Err("element 3 is NaN")).is_err(), "another driver");
        assert!(judge(Name::Cpu, swift, "linear", Err("element 3 is NaN")).is_err(), "another backend");
    }
}
