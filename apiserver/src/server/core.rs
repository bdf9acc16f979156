//! What every request handler shares.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, RwLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Mount;
use crate::access::AccessRules;
use crate::admission::{Admission, Cause};
use crate::object::Object;
use crate::registry::{self, Behavior, CrdError, Definition, Registry, Resource};
use crate::signing::Signer;
use crate::status::{ApiError, chain};
use crate::store::{Store, StoreError};

/// The state behind all transports.
pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) access: AccessRules,
    /// Signs approved requests; there from when the server listens.
    pub(crate) signer: OnceLock<Signer>,
    registry: RwLock<Arc<Registry>>,
    mounts: RwLock<Arc<Vec<Mount>>>,
    /// Names of the definitions that the embedding program gave.
    given: HashSet<String>,
    /// Cancelled at shutdown: ends watches and background tasks.
    pub(crate) shutdown: CancellationToken,
    /// Background tasks and connections.
    pub(crate) tasks: TaskTracker,
}

impl Core {
    pub(super) fn new(
        store: Store,
        (admission, access): (Arc<dyn Admission>, AccessRules),
        registry: Registry,
        given: HashSet<String>,
    ) -> Self {
        Self {
            store,
            admission,
            access,
            signer: OnceLock::new(),
            registry: RwLock::new(Arc::new(registry)),
            mounts: RwLock::default(),
            given,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// What is served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().expect("no holder panics"))
    }

    pub(crate) fn mounts(&self) -> Arc<Vec<Mount>> {
        Arc::clone(&self.mounts.read().expect("no holder panics"))
    }

    pub(super) fn mount(&self, mount: Mount) {
        let mut mounts = self.mounts.write().expect("no holder panics");
        Arc::make_mut(&mut mounts).push(mount);
    }

    /// Whether the embedding program gave the definition.
    pub(crate) fn is_given_definition(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// If the object is a definition: compiles it and writes its status, before it is stored.
    pub(crate) fn settle_definition(
        &self,
        resource: &Resource,
        object: &mut Object,
    ) -> Result<Option<Definition>, ApiError> {
        if resource.behavior != Behavior::Definition || object.is_deleting() {
            return Ok(None);
        }
        let check = |definition: Definition| {
            let is_mounted = self.mounts().iter().any(|mount| mount.group == definition.group);
            if is_mounted || self.registry().is_builtin_group(&definition.group) {
                return Err(CrdError::Taken { name: format!("{}.{}", definition.plural, definition.group) });
            }
            Ok(definition)
        };
        registry::settle(object, jiff::Timestamp::now()).and_then(check).map(Some).map_err(|error| {
            let cause = Cause::new("FieldValueInvalid", format!("Invalid value: {}", chain(&error)), "spec");
            ApiError::invalid(&resource.group, &resource.kind, object.name(), vec![cause])
        })
    }

    /// Serves a definition that is stored now.
    pub(crate) fn serve_definition(&self, definition: Option<Definition>) {
        if let Some(definition) = definition {
            let mut registry = self.registry.write().expect("no holder panics");
            Arc::make_mut(&mut registry).serve(definition);
        }
    }

    /// Stops serving a definition, if it is gone.
    pub(crate) async fn drop_definition(&self, old: &Object) -> Result<(), StoreError> {
        if self.store.by_uid(old.uid()).await?.is_none() {
            let text = |pointer| old.value().pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
            let mut registry = self.registry.write().expect("no holder panics");
            Arc::make_mut(&mut registry).remove(text("/spec/group"), text("/spec/names/plural"));
        }
        Ok(())
    }
}
