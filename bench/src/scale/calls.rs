//! Calls as the API server counts them itself.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::Request;

use super::SETTLE;
use super::cluster::Cluster;

const DEADLINE: Duration = Duration::from_mins(2);
const METRIC: &str = "apiserver_request_total{";
/// The resources that a start is made of.
const RESOURCES: [&str; 4] = ["virtualmachines", "offlinevirtualmachines", "controllerrevisions", "events"];
/// Watches are no calls.
const WATCH: &str = "WATCH";

/// Answered calls about our objects, by what was called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// All calls since the server started.
    ///
    /// # Errors
    /// When the server does not say.
    pub(super) fn count(cluster: &Cluster) -> Result<Self> {
        let request = Request::get("/metrics").body(Vec::new())?;
        let text = cluster.runtime.block_on(cluster.api.request_text(request)).context("read the server's metrics")?;
        Ok(Self::read(&text))
    }

    /// All calls, once no more come.
    ///
    /// # Errors
    /// When the server does not say, or calls go on for too long.
    pub(super) fn at_rest(cluster: &Cluster) -> Result<Self> {
        let begun = Instant::now();
        let mut before = Self::count(cluster)?;
        while begun.elapsed() < DEADLINE {
            sleep(SETTLE);
            let now = Self::count(cluster)?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        bail!("the controller does not come to rest in {} s", DEADLINE.as_secs())
    }

    fn read(metrics: &str) -> Self {
        let mut calls = BTreeMap::new();
        for line in metrics.lines().filter_map(|line| line.strip_prefix(METRIC)) {
            let Some((labels, value)) = line.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            let (Some(resource), Some(verb), Ok(value)) = (label("resource"), label("verb"), value.parse::<f64>())
            else {
                continue;
            };
            if RESOURCES.contains(&resource) && verb != WATCH {
                let subresource = label("subresource").filter(|name| !name.is_empty());
                let what = [Some(resource), subresource].into_iter().flatten().collect::<Vec<_>>().join("/");
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of calls")]
                let value = value as u64;
                *calls.entry(format!("{verb} {what} {}", label("code").unwrap_or_default())).or_default() += value;
            }
        }
        Self(calls)
    }

    /// Those after an earlier count.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let more = self.0.iter().map(|(what, count)| (what, count - earlier.0.get(what).unwrap_or(&0)));
        Self(more.filter(|(_, count)| *count > 0).map(|(what, count)| (what.clone(), count)).collect())
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_about_our_objects_are_counted_and_watches_are_not() {
        let metrics = |posts: u32| {
            let line = |resource: &str, verb: &str, count: u32| {
                format!(
                    "apiserver_request_total{{code=\"201\",component=\"apiserver\",dry_run=\"\",resource=\"{resource}\",subresource=\"status\",verb=\"{verb}\"}} {count}\n"
                )
            };
            line("virtualmachines", "POST", posts)
                + &line("virtualmachines", "WATCH", posts)
                + &line("leases", "PUT", posts)
        };
        let (before, after) = (Calls::read(&metrics(5)), Calls::read(&metrics(1_205)));
        assert_eq!(after.since(&before).to_string(), "1200 POST virtualmachines/status 201");
        assert_eq!(after.since(&before).total(), 1_200);
    }
}
