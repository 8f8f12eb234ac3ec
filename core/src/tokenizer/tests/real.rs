//! Tests on the vocabulary of the real models.

use std::sync::LazyLock;

use super::*;
use crate::tensor::Bytes;

const CASES: &str = include_str!("../../../../conformance/golden/tokenizer/cases.inp");
const IDS: &str = include_str!("../../../../conformance/golden/tokenizer/cases.out");
const PACKED: &[u8] = include_bytes!("../../../../conformance/golden/tokenizer/gemma-4-vocab.gguf.xz");

static GGUF: LazyLock<Gguf> = LazyLock::new(|| {
    let mut unpacked = Vec::new();
    lzma_rs::xz_decompress(&mut &PACKED[..], &mut unpacked).unwrap();
    Gguf::from_bytes(Path::new(PATH), &Bytes::from_owner(unpacked)).unwrap()
});

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(&GGUF).unwrap());

fn ids(line: &str) -> Vec<u32> {
    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

#[test]
fn every_published_case_has_its_ids_and_its_text_back() {
    let texts: Vec<&str> = CASES.split("\n__ggml_vocab_test__\n").collect();
    assert_eq!(texts.len(), 46);
    let lines: Vec<&str> = IDS.lines().collect();
    assert_eq!(lines.len(), texts.len());
    for (text, line) in texts.iter().zip(lines) {
        for special in [Special::Literal, Special::Parse] {
            let found = TOKENIZER.encode(text, special).unwrap();
            assert_eq!(found, ids(line), "{text:?}");
            assert_eq!(TOKENIZER.decode(&found, Markup::Hide), *text);
        }
    }
}

#[test]
fn dialogues_code_and_odd_characters_have_the_reference_ids() {
    let cases = [
        ("<bos><|turn>user\nHello<turn|>\n<|turn>model\n", "2 105 2364 107 9259 106 107 105 4368 107"),
        (
            "<bos><|turn>system\n<|think|>\nYou are a helpful assistant.<turn|>\n<|turn>user\nWhat is 2+2?<turn|>\n\
             <|turn>model\n",
            "2 105 9731 107 98 107 3048 659 496 11045 16326 236761 106 107 105 2364 107 3689 563 236743 236778 236862 \
             236778 236881 106 107 105 4368 107",
        ),
        (
            "<|turn>user\nWhat is the capital of France?<turn|>\n<|turn>model\n<|channel>thought\n<channel|>",
            "105 2364 107 3689 563 506 5279 529 7001 236881 106 107 105 4368 107 100 45518 107 101",
        ),
        (
            "<|tool_call>call:get_weather{city:<|\"|>Paris<|\"|>,days:3}<tool_call|><|tool_response>",
            "48 6639 236787 828 236779 19323 236782 13319 236787 52 50429 52 236764 14356 236787 236800 236783 49 50",
        ),
        (
            "<|tool_response>response:get_weather{value:<|\"|>sunny<|\"|>}<tool_response|>",
            "50 6275 236787 828 236779 19323 236782 2394 236787 52 185060 52 236783 51",
        ),
        (
            "<|tool>declaration:f{description:<|\"|>d<|\"|>,parameters:{properties:{a:{type:<|\"|>STRING<|\"|>}},\
             type:<|\"|>OBJECT<|\"|>}}<tool|>",
            "46 163688 236787 236760 236782 7777 236787 52 236753 52 236764 19031 29616 15921 29616 236746 29616 2084 \
             236787 52 35410 52 5237 2084 236787 52 60688 52 1807 47",
        ),
        ("The capital of France is", "818 5279 529 7001 563"),
        ("  leading and   multiple    spaces", "138 26016 532 139 43819 140 35220"),
        ("tab\there\n\n\nthree newlines\r\nCRLF", "4823 255968 8472 109 19891 861 8721 251 107 6459 43102"),
        (
            "naïve café Ünïcödé 日本語 emoji 🤗🏽",
            "1789 238527 560 33443 15356 236749 238527 236755 55515 236859 33375 238582 64334 223603 242713",
        ),
        (
            "12345 3.14 1e-5",
            "236770 236778 236800 236812 236810 236743 236800 236761 236770 236812 236743 236770 236744 236772 236810",
        ),
        (
            "def f(x):\n    return x**2  # comment\n",
            "2063 517 236769 236781 1473 107 140 2060 1123 1018 236778 138 236865 5739 107",
        ),
        ("\u{1234}\u{abcd}", "240735 472 413 379"),
        ("\u{7}", "245"),
    ];
    for (text, expected) in cases {
        let found = TOKENIZER.encode(text, Special::Parse).unwrap();
        assert_eq!(found, ids(expected), "{text:?}");
        assert_eq!(TOKENIZER.decode(&found, Markup::Show), text);
    }
}

#[test]
fn the_real_vocabulary_has_its_landmarks() {
    assert_eq!(TOKENIZER.vocab_size(), 262_144);
    assert_eq!(TOKENIZER.specials().len(), 24);
    assert_eq!(TOKENIZER.bos(), 2);
    assert_eq!(TOKENIZER.end_ids(&[1, 106, 212]), [1, 50, 106].into());
    assert_eq!(TOKENIZER.id("</s>"), Some(212));
    let marks = TOKENIZER.marks();
    assert_eq!([marks.turn, marks.turn_end, marks.think, marks.quote], [105, 106, 98, 52].map(Some));
    assert_eq!([marks.channel, marks.channel_end, marks.tool, marks.tool_end], [100, 101, 46, 47].map(Some));
    assert_eq!([marks.tool_call, marks.tool_call_end], [48, 49].map(Some));
    assert_eq!([marks.tool_response, marks.tool_response_end], [50, 51].map(Some));
}

#[test]
fn a_run_of_newlines_is_one_token_up_to_31() {
    for count in 1..=31_u32 {
        let text = "\n".repeat(count as usize);
        assert_eq!(TOKENIZER.encode(&text, Special::Parse).unwrap(), [106 + count]);
    }
    let long = TOKENIZER.encode(&"\n".repeat(100_000), Special::Parse).unwrap();
    assert_eq!(TOKENIZER.decode(&long, Markup::Show).len(), 100_000);
}

#[test]
fn no_text_spells_a_control_token_literally() {
    for &id in TOKENIZER.specials() {
        let text = TOKENIZER.piece(id).unwrap();
        let found = TOKENIZER.encode(&format!("a{text}\n{text} {text}"), Special::Literal).unwrap();
        assert!(found.iter().all(|&id| !TOKENIZER.is_special(id)), "{text}");
        assert_eq!(TOKENIZER.encode(text, Special::Parse).unwrap(), [id]);
        assert_eq!(TOKENIZER.id(text), Some(id));
    }
}

#[test]
fn ids_are_those_of_the_library_that_reads_the_whole_file() {
    let mut library = reference();
    for text in
        CASES.split("\n__ggml_vocab_test__\n").chain([IDS, "<bos><|turn>user\n> </ a <turn|>", "\u{abcd}▁ x"])
    {
        for special in [Special::Parse, Special::Literal] {
            library.set_encode_special_tokens(special == Special::Literal);
            let expected = library.encode(text, false).unwrap();
            assert_eq!(TOKENIZER.encode(text, special).unwrap(), expected.get_ids(), "{text:?}");
        }
    }
}

/// The real vocabulary in the library's own pipeline, as Hugging Face's converter sets it up.
fn reference() -> tokenizers::Tokenizer {
    use tokenizers::{AddedToken, normalizers::Replace, tokenizer::Tokenizer as Library};
    let vocab = Vocab::from_metadata(GGUF.metadata()).unwrap();
    let ids = vocab
        .tokens
        .iter()
        .zip(0..)
        .map(|(&text, id)| (text.to_owned(), id))
        .collect::<std::collections::HashMap<_, _>>();
    let merges = vocab.merges.iter().map(|merge| vocab::split_merge(merge).unwrap());
    let merges = merges.map(|(left, right)| (left.to_owned(), right.to_owned())).collect();
    let model = BPE::builder()
        .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .unk_token("<unk>".to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .unwrap();
    let mut library = Library::new(model);
    library.with_normalizer(Some(Replace::new(" ", "▁").unwrap())).unwrap();
    let special = TOKENIZER.specials().iter().map(|&id| AddedToken::from(TOKENIZER.piece(id).unwrap(), true));
    library.add_special_tokens(special.collect::<Vec<_>>()).unwrap();
    library
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cutting_a_text_changes_no_token_of_the_real_vocabulary(
        pieces in prop::collection::vec((0_u32..262_144, texts()), 1..30),
    ) {
        let mut text = String::new();
        for (id, other) in &pieces {
            text.push_str(&TOKENIZER.decode(&[*id], Markup::Hide));
            text.push_str(other);
        }
        prop_assert_eq!(TOKENIZER.encode(&text, Special::Literal).unwrap(), uncut(&TOKENIZER, &text));
    }
}
