//! Conversations in files.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use gemma4_core::cache::{Contents, HeldPage, PAGE};
use gemma4_core::model::config::Span;
use gemma4_core::vault::record::{self, Kind};
use gemma4_core::vault::{Key, Manifest, VaultError, read_saved};

use crate::fuzz::{Syntax, Target};

const FINGERPRINT: Key = Key([7; 32]);
const PAGE_BYTES: usize = 64;

/// A saved conversation. Mutations seldom pass its hashes, so the same bytes are also read as a manifest, and as one in
/// a file whose hash is right.
#[derive(Debug)]
pub(super) struct Kept;

impl Kept {
    fn manifest(len: usize) -> Manifest {
        let tokens: Arc<[u32]> = (0..len).map(|at| u32::try_from(at % 99).expect("below 99")).collect();
        let page = |span, logical| HeldPage { span, logical, page: 0, tokens: PAGE };
        let pages = [Span::Global, Span::Local].into_iter();
        let pages = pages.flat_map(|span| (0..len.div_ceil(PAGE)).map(move |logical| page(span, logical)));
        let contents = Contents { pages: pages.collect(), oldest: 0 };
        Manifest::new(&FINGERPRINT, tokens, len / 2, &contents, |_| PAGE_BYTES)
    }

    fn file(manifest: &[u8], pages: &[Key]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut put = |kind, key: &Key, bytes: &[u8]| {
            record::write(&mut file, kind, key, bytes).expect("memory takes what it is given");
        };
        put(Kind::Manifest, &FINGERPRINT, manifest);
        for key in pages {
            put(Kind::Page, key, &[1; PAGE_BYTES]);
        }
        file
    }

    fn read(file: &[u8]) -> Result<Manifest, VaultError> {
        let path = Path::new("talk.kept");
        let mut bytes = 0;
        let read =
            read_saved(path, &mut Cursor::new(file), &FINGERPRINT, PAGE_BYTES as u64, &mut |_, _, page| {
                bytes += page.len();
            });
        if let Ok(manifest) = &read {
            assert_eq!(bytes as u64, manifest.bytes());
        }
        read
    }
}

impl Target for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Bytes
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let files = [1, 300, 700].map(|len| {
            let manifest = Self::manifest(len);
            let keys: Vec<Key> = manifest.pages.iter().map(|page| page.key).collect();
            Self::file(&manifest.encode(), &keys)
        });
        files.into_iter().chain([Self::manifest(300).encode()]).collect()
    }

    fn words(&self) -> Vec<Vec<u8>> {
        vec![
            b"GEMMA4KR".to_vec(),
            1_u32.to_le_bytes().to_vec(),
            u64::MAX.to_le_bytes().to_vec(),
            FINGERPRINT.0.to_vec(),
        ]
    }

    fn label(&self) -> &'static str {
        "talk.kept"
    }

    fn inputs(&self) -> u64 {
        3_000
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let Ok(manifest) = Manifest::decode(input) else {
            return Self::read(input).map(drop).map_err(|error| error.to_string());
        };
        assert_eq!(manifest.encode(), input, "a manifest is written as it was read");
        let keys: Vec<Key> = manifest.pages.iter().map(|page| page.key).collect();
        let read = Self::read(&Self::file(input, &keys));
        assert!(read.is_ok() || manifest.pages.iter().any(|page| page.bytes != PAGE_BYTES), "{read:?}");
        read.map(drop).map_err(|error| error.to_string())
    }
}
