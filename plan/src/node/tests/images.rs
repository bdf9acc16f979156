//! When registries are asked, and what the user sees while they are, and when they fail.

use std::time::Duration;

use super::fixture::{UID, World, at, events, names, reason, written};
use crate::node::{DisksState, FetchState, ImageCopy, ImageFetch, Look, NamedImage, Trouble, needs_registries};

const PRIVATE: Option<ImageCopy> = Some(ImageCopy::Pulled { with_credentials: true });
const PUBLIC: Option<ImageCopy> = Some(ImageCopy::Pulled { with_credentials: false });
const IMPORTED: Option<ImageCopy> = Some(ImageCopy::Imported);

#[test]
fn who_has_to_be_asked_and_who_can_do_without_an_answer() {
    for (is_floating, copy, asked, does_without) in [
        (false, None, true, false),
        (true, None, true, false),
        (false, IMPORTED, false, true),
        (true, IMPORTED, false, true),
        (false, PUBLIC, false, true),
        (true, PUBLIC, true, true),
        (false, PRIVATE, true, false),
        (true, PRIVATE, true, false),
    ] {
        let image = NamedImage { is_floating, copy };
        assert_eq!((image.needs_registry(), image.does_without_answer()), (asked, does_without), "{image:?}");
    }
}

#[test]
fn one_image_that_is_missing_is_enough_and_none_is_once_they_are_claimed() {
    let there = NamedImage { is_floating: false, copy: PUBLIC };
    let missing = NamedImage { is_floating: false, copy: None };
    assert!(!needs_registries(false, []));
    assert!(!needs_registries(false, [there]));
    assert!(needs_registries(false, [there, missing]));
    assert!(!needs_registries(true, [there, missing]));
}

fn fetching(state: FetchState) -> World {
    let mut world = World::scheduled();
    world.observed.disks =
        DisksState { fetch: Some(ImageFetch { vm_uid: UID.to_owned(), state }), ..DisksState::default() };
    world
}

fn asking(seconds_ago: i64) -> World {
    fetching(FetchState::Asking { since: at(-seconds_ago), message: "waiting for registry.example".to_owned() })
}

fn failed(seconds_ago: i64, failures: u32) -> Trouble {
    let (reason, message) = ("ErrImagePull".to_owned(), "registry.example cannot be reached".to_owned());
    Trouble { reason, message, at: at(-seconds_ago), failures, bringing_up: true }
}

#[test]
fn images_that_are_missing_are_fetched_before_anything_else_is_done() {
    let plan = fetching(FetchState::Missing).plan();
    assert_eq!(names(&plan), ["FetchImages"]);
    assert_eq!(plan.look, None);
}

#[test]
fn a_registry_that_answers_soon_is_not_worth_a_word() {
    let plan = asking(2).plan();
    assert!(plan.steps.is_empty(), "{plan:?}");
    assert_eq!(plan.requeue, Some(Duration::from_secs(3)));
}

#[test]
fn a_registry_that_does_not_answer_is_told_of_once() {
    let mut world = asking(5);
    let plan = world.plan();
    let status = written(&plan).unwrap();
    assert_eq!(reason(&status, "Synchronized").as_deref(), Some("Pulling"));
    assert_eq!(events(&plan), [("Pulling", "waiting for registry.example".to_owned())]);
    world.vm().status = status;
    assert!(world.plan().steps.is_empty());
}

#[test]
fn why_it_failed_before_stays_in_the_status_while_it_is_tried_again() {
    let mut world = asking(60);
    world.observed.trouble = Some(failed(61, 1));
    assert!(world.plan().steps.is_empty());
}

#[test]
fn a_clock_that_was_set_back_tells_of_a_registry_later_no_more() {
    let plan = asking(-3600).plan();
    assert_eq!((plan.steps.len(), plan.requeue), (0, Some(Duration::from_secs(5))));
}

#[test]
fn progress_is_told_when_it_is_new() {
    let mut world = fetching(FetchState::Pulling("layer 1, 25%".to_owned()));
    let plan = world.plan();
    let status = written(&plan).unwrap();
    assert_eq!(reason(&status, "Synchronized").as_deref(), Some("Pulling"));
    assert_eq!(events(&plan), [("Pulling", "layer 1, 25%".to_owned())]);
    world.vm().status = status;
    assert!(world.plan().steps.is_empty());
}

#[test]
fn a_pull_that_failed_is_told_and_tried_again_after_a_pause_that_grows() {
    for (failures, seconds) in [(1, 1), (2, 2), (5, 16), (6, 30), (60, 30)] {
        let mut world = fetching(FetchState::Missing);
        world.observed.trouble = Some(failed(0, failures));
        let plan = world.plan();
        assert_eq!(reason(&written(&plan).unwrap(), "Synchronized").as_deref(), Some("ErrImagePull"));
        assert_eq!(events(&plan), [("SyncFailed", "registry.example cannot be reached".to_owned())]);
        assert_eq!(plan.requeue, Some(Duration::from_secs(seconds)), "after {failures} failures");
        world.observed.trouble = Some(failed(seconds.try_into().unwrap(), failures));
        assert_eq!(names(&world.plan()), ["FetchImages"], "after {failures} failures");
    }
}

#[test]
fn what_was_pulled_is_told_and_used() {
    let plan = fetching(FetchState::Fetched(vec!["pulled a".to_owned(), "pulled b".to_owned()])).plan();
    assert_eq!(names(&plan), ["PrepareDisks"]);
    assert_eq!(events(&plan), [("Pulled", "pulled a".to_owned()), ("Pulled", "pulled b".to_owned())]);
    assert_eq!(plan.look, Some(Look::Start));
}

#[test]
fn nothing_is_pulled_for_a_vm_that_is_not_to_start() {
    for state in [FetchState::Missing, FetchState::Pulling("half".to_owned())] {
        assert_eq!(names(&fetching(state).deleting().plan()), ["CancelFetch"]);
    }
}
