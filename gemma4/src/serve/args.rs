//! Options of the engine side of `gemma4 serve`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::CacheArgs;
use crate::draft::DraftArgs;

/// Heading of help texts.
const SCHEDULING: &str = "Scheduling";
/// Heading of help texts.
const REUSE: &str = "Reuse";

/// How requests share the model.
#[derive(Args, Debug, Clone)]
pub(crate) struct EngineArgs {
    /// Requests that are answered at once
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = SCHEDULING)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) parallel: u16,
    /// Requests that may wait; more are refused with a time to come back
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = SCHEDULING)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=16384))]
    pub(crate) queue: u16,
    /// Most prompt tokens of a step
    #[arg(long, value_name = "TOKENS", default_value_t = 512, help_heading = SCHEDULING)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub(crate) chunk: u16,
    /// Most prompt tokens between two tokens of an answer; at least a page of 256 makes sense
    #[arg(long, value_name = "TOKENS", default_value_t = 256, help_heading = SCHEDULING)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub(crate) prefill_budget: u16,
    /// Give the model's memory back after so much time without a request, such as 10m; the next request loads it again
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = SCHEDULING)]
    pub(crate) park_after: Option<std::time::Duration>,
    /// Tokens of the pool that global layers of all conversations share [default: --parallel times --ctx]
    #[arg(long, value_name = "TOKENS", help_heading = REUSE)]
    pub(crate) pool: Option<usize>,
    /// Sliding windows on the device that are kept for places to come back to, beside those of running requests
    /// [default: as many as take 1 GiB, 2 to 64]
    #[arg(long, value_name = "N", help_heading = REUSE)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub(crate) windows: Option<u16>,
    /// Main memory for conversations that have left the device, such as 4G; 0 for none
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1G", help_heading = REUSE)]
    pub(crate) cache_memory: u64,
    /// Folder for conversations, which then survive a restart
    #[arg(long, value_name = "DIR", help_heading = REUSE)]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Most that --cache-dir may hold
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16G", help_heading = REUSE)]
    pub(crate) cache_disk: u64,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) draft: DraftArgs,
}

/// Reads `500M`, `4G` or a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let plain = text.trim().trim_end_matches(['B', 'b']).trim_end_matches('i');
    let found = units.iter().find_map(|&(unit, shift)| {
        plain.strip_suffix(unit).or_else(|| plain.strip_suffix(&unit.to_lowercase())).map(|n| (n, shift))
    });
    let (number, shift) = found.unwrap_or((plain, 0));
    let bytes = number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("`{text}` is no size; write 500M, 4G or a number of bytes"))
}

/// Reads `90s`, `10m`, `2h` or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let text = text.trim();
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let found = units.iter().find_map(|&(unit, ms)| text.strip_suffix(unit).map(|n| (n, ms)));
    let (number, ms) = found.unwrap_or((text, 1000));
    let parsed = number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(ms));
    parsed
        .map(std::time::Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is no time; write 90s, 10m or 2h"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(["7", "500M", "4GiB", "2 g"].map(size), [7, 500 << 20, 4 << 30, 2 << 30].map(Ok));
        for bad in ["", "-1", "4X", "99999999999T", "1.5G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        let want = [(90, "90"), (90, "90s"), (600, "10m"), (7200, "2h")];
        for (seconds, text) in want {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("soon").is_err() && duration("-3s").is_err());
    }
}
