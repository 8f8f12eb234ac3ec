//! Lines of bounded length.

use std::io::{self, BufRead};

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its end.
    Text(Vec<u8>),
    /// A line of more bytes than are taken; it was skipped.
    TooLong,
    /// Nothing follows.
    End,
}

/// Reads a line of at most `most` bytes, and no more into memory. The last line needs no end.
pub(super) fn next(input: &mut dyn BufRead, most: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut long = false;
    loop {
        let buffer = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            return Ok(match (long, line.is_empty()) {
                (true, _) => Line::TooLong,
                (false, true) => Line::End,
                (false, false) => Line::Text(line),
            });
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        if long || line.len() + piece.len() > most {
            (long, line) = (true, Vec::new());
        } else {
            line.extend_from_slice(piece);
        }
        let taken = piece.len() + usize::from(end.is_some());
        input.consume(taken);
        if end.is_some() {
            return Ok(if long { Line::TooLong } else { Line::Text(line) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    #[test]
    fn lines_come_one_by_one_and_long_ones_are_skipped() {
        for buffer in [1, 3, 100] {
            let text = b"one\n\n12345\n123456\ntwo\n1234567890";
            let mut input = BufReader::with_capacity(buffer, Cursor::new(&text[..]));
            let mut lines = Vec::new();
            loop {
                match next(&mut input, 5).unwrap() {
                    Line::End => break,
                    line => lines.push(line),
                }
            }
            let text = |text: &str| Line::Text(text.as_bytes().to_vec());
            let want = [text("one"), text(""), text("12345"), Line::TooLong, text("two"), Line::TooLong];
            assert_eq!(lines, want);
        }
        let mut input = BufReader::new(Cursor::new(b"last"));
        assert_eq!(next(&mut input, 9).unwrap(), Line::Text(b"last".to_vec()));
        assert_eq!(next(&mut input, 9).unwrap(), Line::End);
    }
}
