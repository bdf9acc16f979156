//! One pull for many, and none for nobody.

use std::path::Path;
use std::time::Duration;

use ::tests::registry::{HostileRegistry, Reply, TestImage, blob_path, tar_with};

use super::*;
use crate::images::format::DetectedFormat;
use crate::images::inspect::InspectError;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const SLOW: Duration = Duration::from_millis(5);

/// Takes everything for a raw disk: looking at disks has tests of its own.
struct Raw;

impl Inspect for Raw {
    fn inspect(&self, file: &std::fs::File) -> Result<DetectedFormat, InspectError> {
        let virtual_bytes = file.metadata().map_err(|error| InspectError::Failed(error.to_string()))?.len();
        Ok(DetectedFormat { format: crate::images::DiskFormat::Raw, virtual_bytes })
    }
}

/// A puller into a store of its own, and a registry with one image under two tags.
struct World {
    puller: Arc<Puller>,
    registry: HostileRegistry,
    layer: String,
    directory: tempfile::TempDir,
}

fn world(pace: Option<Duration>) -> World {
    let directory = tempfile::tempdir().unwrap();
    let registry = HostileRegistry::start().unwrap();
    let layer = tar_with(&[("disk/a.img", &vec![7; 1 << 20])]).unwrap();
    let image = TestImage::new(vec![(layer.clone(), LAYER)], &[]);
    registry.put("disk", &image);
    let manifest = Reply::ok(image.manifest.to_string().into_bytes()).with_header("Content-Type", image.media_type());
    registry.reply("/v2/disk/manifests/other", manifest);
    let path = blob_path("disk", &layer);
    registry.reply(&path, Reply { pace, ..Reply::ok(layer) });
    let store = Arc::new(ImageStore::open(&directory.path().join("data")).unwrap());
    let registries_dir = Path::new("/nonexistent").to_owned();
    let settings = PullSettings { registries_dir, limit_bytes: 1 << 30 };
    let puller = Arc::new(Puller::new(store, Arc::new(Raw), settings));
    World { puller, registry, layer: format!("GET {path}"), directory }
}

impl World {
    fn name(&self, tag: &str) -> ImageName {
        format!("{}/disk:{tag}", self.registry.host()).parse().unwrap()
    }

    async fn fetch(&self, tag: &str) -> Result<Fetched, Arc<PullError>> {
        self.puller.fetch(&self.name(tag), &PullSecrets::default(), &watch::channel(Progress::default()).0).await
    }

    fn pulls(&self) -> usize {
        self.registry.asked().iter().filter(|asked| asked.line == self.layer).count()
    }

    /// The registry goes away: whatever it is asked, it has trouble.
    fn lose(&self) {
        for tag in ["1", "other"] {
            self.registry.reply(&format!("/v2/disk/manifests/{tag}"), Reply::status(503, Vec::new()));
        }
    }
}

#[tokio::test]
async fn two_names_of_one_image_wait_for_one_pull() {
    let world = world(Some(SLOW));
    let (one, other, again) = tokio::join!(world.fetch("1"), world.fetch("other"), world.fetch("1"));
    let manifest = one.unwrap().manifest;
    assert!(other.unwrap().manifest == manifest && again.unwrap().manifest == manifest);
    assert_eq!(world.pulls(), 1);
    for tag in ["1", "other"] {
        assert!(world.puller.store.find(&world.name(tag)).unwrap().is_some(), "{tag} has no name");
    }
    assert!(!world.fetch("1").await.unwrap().is_new);
    assert_eq!(world.pulls(), 1);
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends_and_leaves_nothing() {
    let world = world(Some(Duration::from_millis(200)));
    let wait = tokio::time::timeout(Duration::from_mins(1), async {
        tokio::select! {
            _ = world.fetch("1") => unreachable!("it takes three seconds"),
            () = async { while world.pulls() == 0 { tokio::time::sleep(SLOW).await } } => {}
        }
    });
    wait.await.unwrap();
    let incoming = world.directory.path().join("data/images/incoming");
    let is_empty = || std::fs::read_dir(&incoming).unwrap().next().is_none();
    let wait = tokio::time::timeout(Duration::from_mins(1), async {
        while !is_empty() {
            tokio::time::sleep(SLOW).await;
        }
    });
    wait.await.unwrap();
    assert!(world.puller.store.find(&world.name("1")).unwrap().is_none());
    world.fetch("1").await.unwrap();
    assert_eq!(world.pulls(), 2);
}

#[tokio::test]
async fn without_an_answer_a_public_copy_is_good_and_nothing_else_is() {
    let world = world(None);
    world.fetch("1").await.unwrap();
    world.lose();
    let stale = world.fetch("1").await.unwrap();
    assert!(stale.is_stale && !stale.is_new);
    let missing = world.fetch("other").await.unwrap_err();
    assert_eq!(missing.reason(), "ErrImagePull");
    let (store, name) = (&world.puller.store, world.name("1"));
    let private = Pulled { manifest: stale.manifest, with_credentials: true };
    store.name_pulled(&name, &private, Timestamp::now()).unwrap().unwrap();
    let refused = world.fetch("1").await.unwrap_err();
    assert_eq!(refused.reason(), "ErrImagePull");
}
