//! Keys that a JSON document holds twice. A parser keeps the last silently; `fieldValidation` wants them named.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize as _, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::path::Path;

/// Paths of the repeated fields in the JSON text `json` (`spec.running`), each once. Empty if the text is no JSON: that
/// is somebody else's error.
pub fn duplicate_fields(json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = Path::root();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let seed = Scan { path: &mut path, found: &mut found };
    if seed.deserialize(&mut deserializer).is_err() {
        return Vec::new();
    }
    found
}

struct Scan<'a> {
    path: &'a mut Path,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = self.path.child(&key);
            if seen.contains(&key) && !self.found.contains(&path) {
                self.found.push(path);
            }
            let found = &mut *self.found;
            self.path.with_key(&key, |path| map.next_value_seed(Scan { path, found }))?;
            seen.insert(key);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0.. {
            let found = &mut *self.found;
            if self.path.with_index(index, |path| seq.next_element_seed(Scan { path, found }))?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_named_at_their_path() {
        let json = br#"{"a": 1, "b": {"c": [{"d": null, "d": 2, "d": 3}]}, "a": 2.5}"#;
        assert_eq!(duplicate_fields(json), ["b.c[0].d", "a"]);
        assert_eq!(duplicate_fields(br#"{"a": {"b": "x"}, "b": [true, -1]}"#), Vec::<String>::new());
        assert_eq!(duplicate_fields(b"{\"a\": 1, \"a\""), Vec::<String>::new());
    }
}
