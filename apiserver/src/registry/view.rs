//! Objects between the wire and the store, where the two differ.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Value, json};

use super::events_view;
use super::resource::{Behavior, Resource};
use crate::object::Object;

impl Resource {
    /// An object of a request, as it is stored.
    pub(crate) fn incoming(&self, object: Object) -> Object {
        if self.behavior == Behavior::EventsView { events_view::to_core(object) } else { object }
    }

    /// A stored object, as this resource shows it.
    pub(crate) fn outgoing<'a>(&self, object: &'a Object) -> Cow<'a, Object> {
        if self.behavior == Behavior::EventsView {
            return Cow::Owned(events_view::from_core(object.clone()));
        }
        let api_version = self.api_version();
        if !self.is_converted || object.api_version() == api_version {
            return Cow::Borrowed(object);
        }
        // Versions of a custom resource differ in nothing but their name: there are no conversion webhooks.
        let mut object = object.clone();
        object.root_mut().insert("apiVersion".to_owned(), json!(api_version));
        Cow::Owned(object)
    }

    /// As [`Self::outgoing`], as JSON value.
    pub(crate) fn outgoing_value(&self, object: &Object) -> Value {
        self.outgoing(object).into_owned().into_value()
    }

    /// As [`Self::outgoing`], for stored text. Text that cannot be parsed passes as it is.
    pub(crate) fn outgoing_json(&self, json: Bytes) -> Bytes {
        if !self.is_converted {
            return json;
        }
        Object::parse(&json).map_or(json, |object| Bytes::from(self.outgoing_value(&object).to_string()))
    }
}
