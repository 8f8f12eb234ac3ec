//! What a file that is not a GGUF looks like.

/// First bytes of well-known formats.
const MAGICS: [(&[u8], &str); 22] = [
    (b"FUGG", "a big-endian GGUF file, and only little-endian ones can be read"),
    (b"lmgg", "a GGML file, the format before GGUF"),
    (b"fmgg", "a GGML file, the format before GGUF"),
    (b"tjgg", "a GGML file, the format before GGUF"),
    (b"algg", "a GGLA adapter, the format before GGUF"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"PK\x03\x04", "a ZIP archive or a PyTorch checkpoint; pass a GGUF file or a folder with safetensors"),
    (b"version https://git-lfs", "a Git LFS pointer that stands for the real file; run `git lfs pull`"),
    (b"<!DOCTYPE", "a web page; the download went wrong"),
    (b"<!doctype", "a web page; the download went wrong"),
    (b"<html", "a web page; the download went wrong"),
];

/// One clause on what the file that starts with `bytes` seems to be.
pub(super) fn describe(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(512)];
    if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return format!("it looks like {what}");
    }
    // Protocols 2 to 5 of Python's pickle start with their number.
    if matches!(start, [0x80, 2..=5, ..]) {
        return "it looks like a Python pickle or an old PyTorch checkpoint; \
                pass a GGUF file or a folder with safetensors"
            .to_owned();
    }
    // A safetensors file starts with the length of its JSON header; the format allows at most 100 MB.
    if let Some((length, header)) = start.split_first_chunk::<8>()
        && header.first() == Some(&b'{')
        && u64::from_le_bytes(*length) <= 100_000_000
    {
        return "it looks like a safetensors file; pass the folder that holds it and its config.json"
            .to_owned();
    }
    if let Some(text) = text(start) {
        let first: String = text.trim_start().chars().take(24).collect();
        let what = if first.starts_with('{') { "JSON" } else { "text" };
        return format!("it looks like {what}, starting with {first:?}");
    }
    let first: Vec<String> = start.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("it starts with the bytes {} and not with `GGUF`", first.join(" "))
}

/// The beginning as text, unless it is not; a character cut off at the end does not count.
fn text(start: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let printable = |c: char| !c.is_control() || c.is_ascii_whitespace();
    (!text.is_empty() && text.chars().all(printable)).then_some(text)
}
