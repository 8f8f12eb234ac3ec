//! Mutations of JSON values, which leave the syntax intact so that what reads the values is reached.

use serde_json::{Value, json};

use super::{BadKey, Random, mutate as other};

/// Stands for text that a [`Value`] cannot hold, see [`raw`].
const PLACEHOLDER: &str = "\u{1}raw";

/// Raw text: numbers out of range, nesting deeper than a stack, a lone surrogate.
fn raw(random: &mut Random) -> String {
    match random.below(5) {
        0 => "1e999".to_owned(),
        1 => "-123456789012345678901234567890".to_owned(),
        2 => format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)),
        3 => format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000)),
        _ => "\"\\ud800\"".to_owned(),
    }
}

/// `parent` as JSON with one to four changes, to which parts of `donor` come; as bytes if it is no JSON, and
/// sometimes anyway.
pub(super) fn mutate(random: &mut Random, parent: &[u8], donor: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(parent) else {
        return other::bytes(random, parent, donor, words);
    };
    let donor_value = serde_json::from_slice(donor).unwrap_or(Value::Null);
    for _ in 0..=random.below(4) {
        change(random, &mut value, &donor_value, words);
    }
    let mut text = value.to_string();
    let quoted = Value::from(PLACEHOLDER).to_string();
    while text.contains(&quoted) {
        text = text.replacen(&quoted, &raw(random), 1);
    }
    if random.once_in(8) { other::bytes(random, text.as_bytes(), donor, words) } else { text.into_bytes() }
}

/// `parent` with a change of the JSON that its first 8 bytes give the length of; as bytes if there is none, and
/// sometimes anyway.
pub(super) fn mutate_framed(random: &mut Random, parent: &[u8], donor: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
    let (Some((header, data)), Some((other_header, _))) = (unframe(parent), unframe(donor)) else {
        return other::bytes(random, parent, donor, words);
    };
    if random.once_in(4) {
        return other::bytes(random, parent, donor, words);
    }
    let header = mutate(random, header, other_header, words);
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// The JSON and what follows it.
fn unframe(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

fn change(random: &mut Random, root: &mut Value, donor: &Value, words: &[Vec<u8>]) {
    let graft = any(random, donor).clone();
    let own = any(random, root).clone();
    let node = {
        let index = random.below(count(root));
        nth(root, index)
    };
    match random.below(8) {
        0 | 1 => *node = odd(random, words),
        2 => *node = graft,
        3 => *node = own,
        4 => number(random, node),
        _ => match node {
            Value::Object(map) if !map.is_empty() => {
                let key = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
                match random.below(3) {
                    0 => drop(map.shift_remove(&key)),
                    1 => {
                        let value = map.shift_remove(&key).unwrap_or_default();
                        map.insert(name(random, words), value);
                    }
                    _ => drop(map.insert(name(random, words), graft)),
                }
            }
            Value::Array(items) if !items.is_empty() => {
                let at = random.below(items.len());
                let copies = 1 + random.below(300);
                let item = items[at].clone();
                match random.below(3) {
                    0 => drop(items.remove(at)),
                    1 => items.insert(at, graft),
                    _ => drop(items.splice(at..at, std::iter::repeat_n(item, copies))),
                }
            }
            scalar => *scalar = odd(random, words),
        },
    }
}

fn name(random: &mut Random, words: &[Vec<u8>]) -> String {
    if words.is_empty() || random.once_in(4) {
        return ["", "a", "\u{0}", "é"][random.below(4)].to_owned();
    }
    String::from_utf8_lossy(random.pick(words).as_slice()).into_owned()
}

/// A value that is right hardly anywhere.
fn odd(random: &mut Random, words: &[Vec<u8>]) -> Value {
    match random.below(30) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3 => json!(0),
        4 => json!(-1),
        5 => json!(1),
        6 => json!(0.5),
        7 => json!(-0.0),
        8 => json!(1e308),
        9 => json!(5e-324),
        10 => json!(u64::MAX),
        11 => json!(i64::MIN),
        12 => json!(i64::MAX),
        13 => json!(u32::MAX),
        14 => json!(1_u64 << 32),
        15 => json!(1_u64 << 31),
        16 => json!(1_u64 << 53),
        17 => json!(1_u64 << 24),
        18 => json!(""),
        19 => json!("0"),
        20 => json!("a".repeat(1000)),
        21 => json!("\u{0}\u{feff}é🙂"),
        22 => json!("../../nowhere"),
        23 => json!([]),
        24 => json!({}),
        25 => json!([[]]),
        26 => json!({"": null}),
        27 => json!(vec![0; 1000]),
        28 => json!(PLACEHOLDER),
        _ => json!(name(random, words)),
    }
}

/// Changes a number a little or by much; turns it into its text.
fn number(random: &mut Random, node: &mut Value) {
    *node = if let Some(number) = node.as_u64() {
        match random.below(6) {
            0 => json!(number.wrapping_add(1)),
            1 => json!(number.wrapping_sub(1)),
            2 => json!(number.wrapping_mul(2)),
            3 => json!(number / 2),
            4 => json!(number.to_string()),
            _ => json!(number.wrapping_mul(1 << 20)),
        }
    } else if let Some(number) = node.as_f64() {
        [json!(-number), json!(number * 1e30), json!(number * 1e-30), json!(number.to_string())]
            [random.below(4)]
        .clone()
    } else {
        odd(random, &[])
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

/// Values in `value`, itself included.
fn count(value: &Value) -> usize {
    1 + children(value).into_iter().map(count).sum::<usize>()
}

/// One of the values in `value`.
fn any<'a>(random: &mut Random, value: &'a Value) -> &'a Value {
    let mut queue = vec![value];
    let mut index = random.below(count(value));
    while let Some(next) = queue.pop() {
        if index == 0 {
            return next;
        }
        index -= 1;
        queue.extend(children(next));
    }
    value
}

/// Value number `index` of `root` in depth-first order; `root` itself is number 0.
fn nth(root: &mut Value, index: usize) -> &mut Value {
    let mut left = index;
    let mut node = root;
    while left > 0 {
        left -= 1;
        let mut position = 0;
        for child in children(node) {
            let size = count(child);
            if left < size {
                break;
            }
            left -= size;
            position += 1;
        }
        node = match node {
            Value::Array(items) => &mut items[position],
            Value::Object(map) => map.values_mut().nth(position).expect("the loop above stops at a child"),
            _ => unreachable!("a scalar has no children, so the index would be 0"),
        };
    }
    node
}

/// Every key of the objects in `sample`, for a target's words.
#[must_use]
pub fn keys(sample: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let Ok(value) = serde_json::from_slice::<Value>(sample) else {
        return keys;
    };
    let mut queue = vec![&value];
    while let Some(next) = queue.pop() {
        if let Value::Object(map) = next {
            keys.extend(map.keys().map(|key| key.clone().into_bytes()));
        }
        queue.extend(children(next));
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// `sample` with the value of one key replaced by each of `values` in turn, for every key of every object.
///
/// The error may name the key itself or, for an object in a list, the key of the list.
#[must_use]
pub fn spoil(sample: &[u8], values: &[Value]) -> Vec<BadKey> {
    let mut spoiled = Vec::new();
    let Ok(value) = serde_json::from_slice::<Value>(sample) else {
        return spoiled;
    };
    for (index, list) in lists(&value).into_iter().enumerate() {
        let mut copy = value.clone();
        let keys: Vec<String> = match nth(&mut copy, index) {
            Value::Object(map) => map.keys().cloned().collect(),
            _ => continue,
        };
        for key in keys {
            for bad in values {
                let mut copy = value.clone();
                if let Value::Object(map) = nth(&mut copy, index) {
                    map.insert(key.clone(), bad.clone());
                }
                let names = [Some(key.clone()), list.map(str::to_owned)].into_iter().flatten().collect();
                spoiled.push(BadKey { names, input: copy.to_string().into_bytes() });
            }
        }
    }
    spoiled
}

/// For every value in `root`, in the order of [`nth`]: the key of the list that it is in.
fn lists(root: &Value) -> Vec<Option<&str>> {
    let mut lists = Vec::new();
    // Value, key it is under, list it is in; the last is next.
    let mut queue = vec![(root, None, None)];
    while let Some((value, key, list)) = queue.pop() {
        lists.push(list);
        match value {
            Value::Array(items) => queue.extend(items.iter().rev().map(|item| (item, key, key))),
            Value::Object(map) => {
                queue.extend(map.iter().rev().map(|(key, value)| (value, Some(key.as_str()), list)));
            }
            _ => {}
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = br#"{"a": 1, "b": [2, {"c": "three"}], "d": null}"#;

    #[test]
    fn every_value_is_counted_and_found() {
        let mut value: Value = serde_json::from_slice(SAMPLE).unwrap();
        assert_eq!(count(&value), 7);
        assert_eq!(*nth(&mut value, 1), json!(1));
        assert_eq!(*nth(&mut value, 2), json!([2, {"c": "three"}]));
        assert_eq!(*nth(&mut value, 5), json!("three"));
        assert_eq!(*nth(&mut value, 6), json!(null));
    }

    #[test]
    fn most_mutations_are_json_and_differ_from_the_sample() {
        let mut random = Random::new(2);
        let sample: Value = serde_json::from_slice(SAMPLE).unwrap();
        let inputs: Vec<_> = (0..1000).map(|_| mutate(&mut random, SAMPLE, SAMPLE, &keys(SAMPLE))).collect();
        let values = inputs.iter().filter_map(|input| serde_json::from_slice::<Value>(input).ok());
        let different = values.filter(|value| *value != sample).count();
        assert!((600..1000).contains(&different), "{different} of 1000");
        assert!(inputs.iter().any(|input| input.len() > 10_000), "nothing is deeply nested");
    }

    #[test]
    fn framed_mutations_mostly_keep_the_length_right() {
        let sample = [&(SAMPLE.len() as u64).to_le_bytes()[..], SAMPLE, b"data"].concat();
        let mut random = Random::new(4);
        let inputs = (0..1000).map(|_| mutate_framed(&mut random, &sample, &sample, &[]));
        let right = inputs.filter(|input| unframe(input).is_some_and(|(_, data)| data == b"data")).count();
        assert!((500..1000).contains(&right), "{right} of 1000");
    }

    #[test]
    fn spoiling_replaces_one_key_at_a_time() {
        let spoiled = spoil(SAMPLE, &[json!("x"), json!([])]);
        let keys: Vec<&str> = spoiled.iter().map(|bad| bad.names[0].as_str()).collect();
        assert_eq!(keys, ["a", "a", "b", "b", "d", "d", "c", "c"]);
        assert_eq!(spoiled[6].names, ["c", "b"]);
        assert_eq!(spoiled[0].names, ["a"]);
        assert_eq!(spoiled[6].input, br#"{"a":1,"b":[2,{"c":"x"}],"d":null}"#);
        assert_eq!(super::keys(SAMPLE), [b"a", b"b", b"c", b"d"]);
    }
}
