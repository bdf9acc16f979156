//! What our pods say of themselves, as a scraper in the cluster reads it.

use anyhow::{Context as _, Result, ensure};
use tests::wait::wait_for;

use crate::nodes::{guests_on_both_nodes, stop_all};
use crate::world::{DEADLINE, NODES, SYSTEM, World};

pub(crate) fn pods_say_how_they_are(world: &World) -> Result<()> {
    let guests = guests_on_both_nodes(world)?;
    for node in NODES {
        let of_node = ["-l", "app.kubernetes.io/name=ovm-agent", "--field-selector", &format!("spec.nodeName={node}")];
        let [address] = &addresses(world, &of_node)?[..] else { anyhow::bail!("{node} has not one agent") };
        // The domains are counted by a full pass, which comes every half minute.
        wait_for("the agent's metrics tell of the guest", DEADLINE, || {
            let text = scrape(world, &format!("{address}:8081/metrics"))?;
            for line in [
                "ovm_agent_virtualmachines{phase=\"Running\"} 1",
                "ovm_agent_domains{state=\"active\"} 1",
                "ovm_agent_libvirt_parked_calls 0",
            ] {
                ensure!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
            }
            for name in
                ["ovm_agent_api_requests_total{", "ovm_agent_libvirt_calls_total{", "ovm_agent_heartbeat_age_seconds "]
            {
                ensure!(text.lines().any(|found| found.starts_with(name)), "no {name} in\n{text}");
            }
            Ok(())
        })?;
        for path in ["healthz", "readyz"] {
            scrape(world, &format!("{address}:8081/{path}"))?;
        }
    }
    let controllers = addresses(world, &["-l", "app.kubernetes.io/name=ovm-controller"])?;
    let mut leaders = 0;
    for address in &controllers {
        let text = scrape(world, &format!("{address}:8080/metrics"))?;
        leaders += text.lines().filter(|line| *line == "ovm_controller_leader 1").count();
        let running = "ovm_controller_virtualmachines{phase=\"Running\"} 2";
        ensure!(text.lines().any(|line| line == running), "no line {running} in\n{text}");
    }
    ensure!((controllers.len(), leaders) == (2, 1), "{leaders} of {} controllers lead", controllers.len());
    stop_all(world, &guests)
}

fn addresses(world: &World, which: &[&str]) -> Result<Vec<String>> {
    let pods = [&["get", "pods", "-n", SYSTEM], which, &["-o", "jsonpath={.items[*].status.podIP}"]].concat();
    Ok(world.admin.kubectl(&pods)?.split_whitespace().map(str::to_owned).collect())
}

/// From the first node, as its Prometheus would.
fn scrape(world: &World, url: &str) -> Result<String> {
    world
        .cluster
        .node(NODES[0])?
        .run(&["curl", "--silent", "--show-error", "--fail", url])
        .with_context(|| url.to_owned())
}
