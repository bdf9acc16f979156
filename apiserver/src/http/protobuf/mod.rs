//! Protobuf bodies of the kinds that kubectl and Go clients send in it: kubectl does so whenever it makes a built-in
//! object itself (`create namespace`, `create secret`, `auth can-i`, `certificate approve`), and has no fallback. Answers are JSON always.
//!
//! A body is `k8s\0`, then a `runtime.Unknown` that wraps the object:
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>. Fields that are not in [`messages`]
//! are skipped, as protobuf asks.

mod messages;
mod wire;

use serde_json::{Map, Value, json};

use messages::{Field, Kind, Message};
use wire::{Broken, Item, Reader};

/// Media type of protobuf bodies.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// First bytes of every body.
const MAGIC: &[u8] = b"k8s\0";

/// A body that is no protobuf of a known kind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    /// The kind has no table here.
    #[error("protobuf of {kind} is not understood here: send JSON")]
    UnknownKind { kind: String },
    #[error("the body is no protobuf of the Kubernetes API")]
    Broken(#[from] Broken),
}

/// The JSON form of a protobuf body.
pub(crate) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Broken)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Reader::new(envelope) {
        match item? {
            (1, Item::Bytes(type_meta)) => {
                for item in Reader::new(type_meta) {
                    match item? {
                        (1, Item::Bytes(text)) => api_version = wire::text(text)?,
                        (2, Item::Bytes(text)) => kind = wire::text(text)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let message = messages::find(&kind).ok_or_else(|| DecodeError::UnknownKind { kind: kind.clone() })?;
    let mut object = read(message, raw)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

/// Reads a message. Empty texts and messages are what Go writes for "unset", and are left out.
fn read(message: Message, bytes: &[u8]) -> Result<Map<String, Value>, Broken> {
    let mut object = Map::new();
    for item in Reader::new(bytes) {
        let (number, item) = item?;
        let Some(Field { name, kind, .. }) = message.iter().find(|field| field.number == number) else { continue };
        match (kind, item) {
            (Kind::Number, Item::Number(value)) => {
                object.insert((*name).to_owned(), json!(value.cast_signed()));
            }
            (Kind::Flag, Item::Number(value)) => {
                object.insert((*name).to_owned(), json!(value != 0));
            }
            (_, Item::Bytes(bytes)) => put(&mut object, name, *kind, bytes)?,
            (_, Item::Number(_)) => return Err(Broken),
        }
    }
    Ok(object)
}

fn put(object: &mut Map<String, Value>, name: &str, kind: Kind, bytes: &[u8]) -> Result<(), Broken> {
    let value = match kind {
        Kind::Text | Kind::Bytes if bytes.is_empty() => return Ok(()),
        Kind::Text => json!(wire::text(bytes)?),
        Kind::Bytes => json!(wire::base64(bytes)),
        Kind::Time => match time(bytes)? {
            Some(time) => json!(crate::object::timestamp(time)),
            None => return Ok(()),
        },
        Kind::MicroTime => match time(bytes)? {
            Some(time) => json!(time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()),
            None => return Ok(()),
        },
        Kind::Message(message) => match read(message, bytes)? {
            fields if fields.is_empty() => return Ok(()),
            fields => Value::Object(fields),
        },
        Kind::TextList => return push(object, name, json!(wire::text(bytes)?)),
        Kind::MessageList(message) => return push(object, name, Value::Object(read(message, bytes)?)),
        Kind::TextMap => return put_entry(object, name, bytes, |value| Ok(json!(wire::text(value)?))),
        Kind::BytesMap => return put_entry(object, name, bytes, |value| Ok(json!(wire::base64(value)))),
        Kind::Number | Kind::Flag => return Err(Broken),
    };
    object.insert(name.to_owned(), value);
    Ok(())
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Broken> {
    let list = object.entry(name).or_insert_with(|| json!([]));
    list.as_array_mut().ok_or(Broken)?.push(value);
    Ok(())
}

/// A map is a list of messages: field 1 is the key, field 2 the value.
fn put_entry(
    object: &mut Map<String, Value>,
    name: &str,
    bytes: &[u8],
    make: impl Fn(&[u8]) -> Result<Value, Broken>,
) -> Result<(), Broken> {
    let (mut key, mut value) = (String::new(), &[][..]);
    for item in Reader::new(bytes) {
        match item? {
            (1, Item::Bytes(bytes)) => key = wire::text(bytes)?,
            (2, Item::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    let map = object.entry(name).or_insert_with(|| json!({}));
    map.as_object_mut().ok_or(Broken)?.insert(key, make(value)?);
    Ok(())
}

/// `Time` and `MicroTime` are seconds and nanoseconds; empty is "no time".
fn time(bytes: &[u8]) -> Result<Option<jiff::Timestamp>, Broken> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    for item in Reader::new(bytes) {
        match item? {
            (1, Item::Number(value)) => seconds = value.cast_signed(),
            (2, Item::Number(value)) => nanoseconds = i32::try_from(value.cast_signed()).map_err(|_| Broken)?,
            _ => {}
        }
    }
    jiff::Timestamp::new(seconds, nanoseconds).map(Some).map_err(|_| Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw), field(3, b""), field(4, b"")].concat()
    }

    #[test]
    fn a_secret_is_read() {
        let metadata =
            [field(1, b"s"), field(2, b""), field(8, b""), field(11, &[field(1, b"a"), field(2, b"b")].concat())];
        let raw = [
            field(1, &metadata.concat()),
            field(2, &[field(1, b"key"), field(2, &[0xff, 0])].concat()),
            field(3, b"Opaque"),
            vec![5 << 3, 1],
        ];
        assert_eq!(
            decode(&body("Secret", &raw.concat())).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"a": "b"}},
                "data": {"key": "/wA="}, "type": "Opaque", "immutable": true,
            })
        );
    }

    #[test]
    fn broken_bodies_and_unknown_kinds_are_refused() {
        assert!(matches!(decode(&body("Pod", &[])), Err(DecodeError::UnknownKind { kind }) if kind == "Pod"));
        let whole = body("ConfigMap", &field(1, &field(1, b"name")));
        for end in 0..whole.len() - 4 {
            // Whatever is cut off, the reader neither panics nor reads on.
            let _ = decode(&whole[..end]);
        }
        assert!(matches!(decode(b"{}"), Err(DecodeError::Broken(_))));
        assert!(matches!(decode(&body("ConfigMap", &[0xff; 12])), Err(DecodeError::Broken(_))));
        let wrong_type = body("ConfigMap", &[1 << 3, 1]);
        assert!(matches!(decode(&wrong_type), Err(DecodeError::Broken(_))));
    }
}
