use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{Finish, Marker, Markers, Parser, Start, read, reply, run, spelled};

/// A value as chat templates print it (`None` for null, keys bare and in any order).
fn print(value: &Value, null: &str, out: &mut String) {
    match value {
        Value::Null => out.push_str(null),
        Value::String(text) => out.extend(["<|\"|>", text, "<|\"|>"]),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                print(item, null, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (key, value)) in members.iter().enumerate() {
                out.extend([if index == 0 { "" } else { "," }, key, ":"]);
                print(value, null, out);
            }
            out.push('}');
        }
        other => *out += &other.to_string(),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        any_string().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((any_key(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Text of a string: anything, often what the syntax itself is made of, never a marker.
fn any_string() -> impl Strategy<Value = String> {
    prop_oneof!["[{}\\[\\]:,'\"\\\\ \n<|>a-c]{0,12}", any::<String>()]
        .prop_filter("holds a marker", |text| Marker::ALL.iter().all(|marker| !text.contains(marker.text())))
}

fn any_key() -> impl Strategy<Value = String> {
    "[a-zA-Z_$@/éß日][a-zA-Z0-9_. -]{0,6}[a-z0-9]|[a-z]"
}

fn any_arguments() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((any_key(), any_json()), 0..5).prop_map(|pairs| pairs.into_iter().collect())
}

/// Texts made of what the format is made of.
fn any_output() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(Marker::ALL.to_vec()).prop_map(|marker| marker.text().to_owned()),
        3 => prop::sample::select(vec!["thought\n", "thought", "call:f", "call:", "model\n", "a:", "{", "}", "[", "]", "(", ")", ",", ":", "\"", "'", "\\", "1", "null", " ", "\n", "<", "<|", "|>"]).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[a-z ]{1,5}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn printed_arguments_are_read_back(arguments in any_arguments(), null in prop_oneof![Just("null"), Just("None")]) {
        let mut text = "<|tool_call>call:f".to_owned();
        print(&Value::Object(arguments.clone()), null, &mut text);
        text += "<tool_call|>";
        let expected = reply("", "", &[("f", Value::Object(arguments))]);
        prop_assert_eq!(&read(&text), &expected);
        prop_assert_eq!(&run(spelled(), [(0, text.as_str())], Finish::Stop), &expected);
    }

    #[test]
    fn json_arguments_are_read_too(arguments in any_arguments()) {
        let text = format!("<|tool_call>call:f{}<tool_call|>", Value::Object(arguments.clone()));
        prop_assert_eq!(read(&text), reply("", "", &[("f", Value::Object(arguments))]));
    }

    #[test]
    fn any_output_in_any_pieces_gives_the_same_reply(text in any_output(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|at| text.is_char_boundary(*at)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        let pieces: Vec<&str> = places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        let whole = run(spelled(), [(0, text.as_str())], Finish::Stop);
        prop_assert_eq!(run(spelled(), pieces.iter().map(|piece| (0, *piece)), Finish::Stop), whole);
    }

    #[test]
    fn tokens_and_spelled_markers_say_the_same(text in any_output()) {
        prop_assert_eq!(read(&text), run(spelled(), [(0, text.as_str())], Finish::Stop));
    }

    #[test]
    fn any_text_ends_in_a_reply_that_holds_no_marker(text in any_output(), start in prop_oneof![Just(Start::Answer), Just(Start::Thought)], finish in prop_oneof![Just(Finish::Stop), Just(Finish::Length)]) {
        let reply = run(Parser::new(Markers::spelled(), start), [(0, text.as_str())], finish);
        for marker in Marker::ALL {
            prop_assert!(!reply.content.contains(marker.text()), "{:?}", reply);
            prop_assert!(!reply.reasoning.contains(marker.text()), "{:?}", reply);
        }
    }
}
