//! Serves a data directory: `cargo run --example serve -- DIR ADDR:PORT [CRD.json ...]`. Ends at Ctrl-C.

use apiserver::{ApiServer, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let started = std::time::Instant::now();
    let mut arguments = std::env::args().skip(1);
    let (directory, address) = arguments.next().zip(arguments.next()).ok_or("usage: serve DIR ADDR:PORT [CRD.json]")?;
    let mut options = Options::new(directory, address.parse()?);
    for file in arguments {
        options.custom_resources.push(serde_json::from_slice(&std::fs::read(file)?)?);
    }
    let server = ApiServer::open(options).await?;
    let endpoint = server.listen().await?;
    println!("ready after {:?}: export KUBECONFIG={}", started.elapsed(), endpoint.kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
