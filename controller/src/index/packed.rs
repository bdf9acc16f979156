//! An object kept as one piece of text, which is a fifth of what its strings, lists and maps take one by one. Read again whenever somebody looks at it.

use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use crate::lean::{Kind, Lean};

/// An object of one of our kinds.
#[derive(Clone, Debug)]
pub(crate) struct Packed<K> {
    json: Box<[u8]>,
    kind: PhantomData<K>,
}

#[derive(Serialize)]
struct Parts<'a, S, T> {
    metadata: &'a ObjectMeta,
    spec: &'a S,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a T>,
}

impl<K: Kind> Packed<K> {
    pub(crate) fn of(object: &K) -> Self {
        let (metadata, spec, status) = object.parts();
        let json = serde_json::to_vec(&Parts { metadata, spec, status });
        let json = json.expect("an object of ours is made of what JSON has words for").into_boxed_slice();
        Self { json, kind: PhantomData }
    }

    pub(crate) fn unpack(&self) -> K {
        serde_json::from_slice::<Lean<K>>(&self.json).expect("what was written here can be read again").0
    }
}
