use std::convert::Infallible;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::cache::{Contents, HeldPage, PAGE};
use crate::model::config::Span;

const FINGERPRINT: Key = Key([7; 32]);
const WINDOW: usize = 300;

/// A conversation of `len` tokens of text number `text`, with all global pages and the local ones of its window.
fn conversation(text: u32, len: usize, exact: usize) -> Manifest {
    let tokens: Arc<[u32]> = (0..len).map(|i| u32::try_from(i).unwrap() % 97 + 100 * text).collect();
    let end = len.div_ceil(PAGE);
    let oldest = (len / PAGE * PAGE + 1).saturating_sub(WINDOW) / PAGE * PAGE;
    let page =
        |span, logical: usize| HeldPage { span, logical, page: 0, tokens: (len - logical * PAGE).min(PAGE) };
    let pages =
        (0..end).map(|l| page(Span::Global, l)).chain((oldest / PAGE..end).map(|l| page(Span::Local, l)));
    let contents = Contents { pages: pages.collect(), oldest };
    Manifest::new(&FINGERPRINT, tokens, exact, &contents, |span| if span == Span::Global { 100 } else { 200 })
}

/// What a page holds, by its name.
fn bytes(page: &PageRef) -> Vec<u8> {
    page.key.0.iter().copied().cycle().take(page.bytes).collect()
}

fn put(vault: &mut Vault, manifest: &Manifest) -> (bool, usize) {
    let mut read = 0;
    let taken = vault.put::<Infallible>(manifest, &mut |page| {
        read += 1;
        Ok(bytes(page))
    });
    (taken.unwrap(), read)
}

fn whole(vault: &Vault, manifest: &Manifest) -> bool {
    manifest.pages.iter().all(|page| vault.page(page) == Some(bytes(page)))
}

fn find(vault: &Vault, tokens: &[u32], exact: bool) -> Option<(usize, usize)> {
    let wanted = Wanted { tokens, most: tokens.len() - 1, exact, window: WINDOW };
    vault.find(&wanted).map(|found| (found.len, found.common))
}

fn open(dir: &Path, limit: u64) -> (Vault, Option<String>) {
    Vault::in_folder(dir, FINGERPRINT, limit).unwrap()
}

#[test]
fn a_turn_adds_its_own_pages_only() {
    let mut vault = Vault::in_memory(1 << 20);
    let (one, two) = (conversation(1, 1000, 1000), conversation(1, 1300, 1000));
    assert_eq!(put(&mut vault, &one), (true, 4 + 3));
    // Pages 0 to 2 of the global layers are shared; a page of 232 tokens is not one of 256.
    assert_eq!(put(&mut vault, &two), (true, 3 + 3));
    assert_eq!(put(&mut vault, &two), (true, 0));
    assert!(whole(&vault, &one) && whole(&vault, &two));
    let stats = vault.stats();
    assert_eq!((stats.conversations, stats.pages, stats.bytes), (2, 13, 7 * 100 + 6 * 200));
    vault.forget(&two.key());
    assert!(whole(&vault, &one));
    assert_eq!(vault.stats().pages, 7);
    vault.clear();
    assert_eq!(vault.stats(), VaultStats { limit: 1 << 20, ..VaultStats::default() });
}

#[test]
fn what_is_found_has_the_tokens_the_window_and_the_kind_that_are_wanted() {
    let mut vault = Vault::in_memory(1 << 20);
    let kept = conversation(1, 1000, 900);
    put(&mut vault, &kept);
    let longer = [&kept.tokens[..], &[1, 2, 3]].concat();
    assert_eq!(find(&vault, &longer, false), Some((1000, 1000)));
    assert_eq!(find(&vault, &longer, true), Some((900, 1000)));
    // One token is left to compute.
    assert_eq!(find(&vault, &kept.tokens, false), Some((999, 1000)));
    let edited = [&kept.tokens[..820], &[1, 2, 3]].concat();
    assert_eq!(find(&vault, &edited, false), Some((820, 820)));
    // The window before position 500 is not kept.
    assert_eq!(find(&vault, &kept.tokens[..501], false), None);
    assert_eq!(vault.common(&kept.tokens[..501]), 501);
    assert_eq!(find(&vault, &conversation(2, 1000, 0).tokens, false), None);
    // Of two, the one with more of it.
    put(&mut vault, &conversation(1, 450, 450));
    assert_eq!(find(&vault, &kept.tokens[..501], false), Some((450, 450)));
}

#[test]
fn generated_tokens_make_other_pages_than_computed_ones() {
    let mut vault = Vault::in_memory(1 << 20);
    put(&mut vault, &conversation(1, 1000, 1000));
    assert_eq!(put(&mut vault, &conversation(1, 1000, 600)).1, 2 + 2, "those from token 600 on");
}

#[test]
fn the_least_recently_used_goes_first_and_what_never_fits_is_not_taken() {
    let mut vault = Vault::in_memory(2000);
    let all = [1, 2, 3].map(|text| conversation(text, 600, 600));
    assert_eq!(all[0].bytes(), 900);
    put(&mut vault, &all[0]);
    put(&mut vault, &all[1]);
    assert!(find(&vault, &all[0].tokens, false).is_some());
    put(&mut vault, &all[2]);
    assert_eq!([0, 1, 2].map(|i| vault.contains(&all[i])), [true, false, true]);
    assert!(whole(&vault, &all[0]) && vault.stats().bytes <= 2000);
    assert_eq!(put(&mut vault, &conversation(4, 5000, 0)), (false, 0));
}

#[test]
fn a_folder_survives_a_restart_and_keeps_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (conversation(1, 1000, 1000), conversation(2, 700, 300));
    let (mut vault, warning) = open(dir.path(), 1 << 20);
    assert_eq!(warning, None);
    assert!(put(&mut vault, &one).0 && put(&mut vault, &two).0);
    let error = Vault::in_folder(dir.path(), FINGERPRINT, 1).unwrap_err().to_string();
    assert!(error.ends_with("is in use by another process; choose another folder"), "{error}");
    vault.flush();
    let stats = vault.stats();
    drop(vault);

    let (vault, warning) = open(dir.path(), 1 << 20);
    assert_eq!((vault.stats(), warning), (stats, None));
    assert!(whole(&vault, &one) && whole(&vault, &two));
    assert_eq!(find(&vault, &one.tokens, true), Some((999, 1000)));
    drop(vault);

    // Another model finds nothing, and takes the room that it needs.
    let (vault, _) = Vault::in_folder(dir.path(), Key([8; 32]), 1 << 20).unwrap();
    assert_eq!(vault.stats().conversations, 0);
    drop(vault);
    let (mut vault, _) = Vault::in_folder(dir.path(), Key([8; 32]), 100).unwrap();
    vault.flush();
    assert!(!put(&mut vault, &one).0);
    drop(vault);
    assert_eq!(open(dir.path(), 1 << 20).0.stats().conversations, 0);
}

#[test]
fn what_was_used_last_stays_also_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let all = [1, 2, 3].map(|text| conversation(text, 600, 600));
    let (mut vault, _) = open(dir.path(), 1 << 20);
    for manifest in &all {
        put(&mut vault, manifest);
        vault.flush();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(find(&vault, &all[0].tokens, false).is_some());
    drop(vault);
    let (vault, _) = open(dir.path(), 2000);
    vault.flush();
    assert_eq!([0, 1, 2].map(|i| vault.contains(&all[i])), [true, false, true]);
    assert!(whole(&vault, &all[0]) && whole(&vault, &all[2]));
}

#[test]
fn what_was_not_committed_is_removed_and_what_is_damaged_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (conversation(1, 1000, 1000), conversation(2, 700, 300));
    let (mut vault, _) = open(dir.path(), 1 << 20);
    put(&mut vault, &one);
    put(&mut vault, &two);
    vault.flush();
    drop(vault);
    let place = dir.path().join(&FINGERPRINT.to_string()[..16]);
    let file = |key: &Key, kind: &str| place.join(format!("{key}.{kind}"));
    let count = || fs::read_dir(&place).unwrap().count();
    let before = count();

    // A process that died while it wrote: half a file, and pages whose conversation never came.
    fs::write(place.join("writing.part"), b"GEMMA4KR half").unwrap();
    let orphan = conversation(3, 300, 300);
    fs::write(file(&orphan.pages[0].key, "page"), b"whatever").unwrap();
    let (vault, warning) = open(dir.path(), 1 << 20);
    assert_eq!((vault.stats().conversations, warning, count()), (2, None, before));
    drop(vault);

    // A page that is too short is seen at once; one whose bits changed, when it is read.
    let page = file(&one.pages[0].key, "page");
    let good = fs::read(&page).unwrap();
    fs::write(&page, &good[..good.len() - 1]).unwrap();
    let (vault, warning) = open(dir.path(), 1 << 20);
    let warning = warning.unwrap();
    assert!(warning.ends_with(": 1 file damaged, ignored and removed"), "{warning}");
    assert_eq!(vault.stats().conversations, 1);
    drop(vault);
    assert_eq!(open(dir.path(), 1 << 20).1, None, "said once");

    let page = file(&two.pages[1].key, "page");
    let mut bad = fs::read(&page).unwrap();
    bad[70] ^= 1;
    fs::write(&page, &bad).unwrap();
    let (mut vault, warning) = open(dir.path(), 1 << 20);
    assert_eq!(warning, None);
    assert_eq!(vault.page(&two.pages[1]), None);
    assert_eq!(vault.page(&two.pages[0]), Some(bytes(&two.pages[0])));
    let warning = vault.warning().unwrap();
    assert!(warning.ends_with("its hash does not match its contents"), "{warning}");
    assert_eq!(vault.warning(), None);
    vault.forget(&two.key());
    vault.flush();
    assert_eq!(count(), 0);
}

#[test]
fn a_saved_conversation_is_read_back_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.kept");
    let manifest = conversation(1, 700, 650);
    write_saved::<VaultError>(&path, &FINGERPRINT, &manifest, &mut |page| Ok(bytes(page))).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let good = fs::read(&path).unwrap();
    let read = |input: &[u8], fingerprint: &Key| {
        let mut pages = Vec::new();
        let mut page = |_: &Manifest, at: usize, bytes: Vec<u8>| pages.push((at, bytes));
        let read = read_saved(&path, &mut Cursor::new(input), fingerprint, 200, &mut page);
        read.map(|manifest| (manifest, pages))
    };
    let (again, pages) = read(&good, &FINGERPRINT).unwrap();
    assert_eq!(again, manifest);
    let want: Vec<_> = manifest.pages.iter().map(bytes).enumerate().collect();
    assert_eq!(pages, want);
    assert!(matches!(read(&good, &Key([1; 32])), Err(VaultError::Other { .. })));
    for len in [0, 7, 55, 60, 300, good.len() / 2, good.len() - 1] {
        let error = read(&good[..len], &FINGERPRINT).unwrap_err();
        assert!(error.to_string().ends_with("it ends too early"), "{len}: {error}");
    }
    let longer = [&good[..], b"x"].concat();
    assert!(read(&longer, &FINGERPRINT).unwrap_err().to_string().contains("follows its last page"));
    for at in (0..good.len()).step_by(13) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(read(&bad, &FINGERPRINT).is_err(), "byte {at}");
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let good = conversation(1, 700, 650);
    assert_eq!(Manifest::decode(&good.encode()), Ok(good.clone()));
    let change = |change: &dyn Fn(&mut Manifest)| {
        let mut bad = good.clone();
        change(&mut bad);
        Manifest::decode(&bad.encode())
    };
    assert!(change(&|m| m.exact = 701).is_err());
    assert!(change(&|m| m.oldest = 701).is_err());
    assert!(change(&|m| m.tokens = [].into()).is_err());
    assert!(change(&|m| m.pages[0].logical = 3).is_err());
    assert!(change(&|m| m.pages.swap(0, 1)).is_err());
    assert!(change(&|m| m.pages[1] = m.pages[0]).is_err());
    let mut bytes = good.encode();
    bytes[16] = 0xFF;
    assert!(Manifest::decode(&bytes).is_err());
    assert!(Manifest::decode(&good.encode()[..50]).is_err());
}

#[test]
fn names_are_read_back() {
    let key = conversation(1, 10, 10).key();
    assert_eq!(Key::parse(&key.to_string()), Some(key));
    for bad in ["", "00", &"g".repeat(64), &"+1".repeat(32)] {
        assert_eq!(Key::parse(bad), None, "{bad}");
    }
}
