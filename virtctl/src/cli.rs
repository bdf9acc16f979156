//! The grammar of the command line. kubectl's connection flags, under kubectl's names.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Drives the life of virtual machines.
#[derive(Debug, Parser)]
#[command(name = "virtctl", version, about = "Drives the life of virtual machines")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: ConnectionFlags,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How to reach the API server. Kubeconfig rules are kubectl's.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionFlags {
    /// Path to the kubeconfig file [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Cluster of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// User of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Namespace of the virtual machine [default: the context's]
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Address of the API server
    #[arg(long, short = 's', global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Bearer token for the API server
    #[arg(long, global = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Certificate file of the authority that signed the API server's certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) certificate_authority: Option<PathBuf>,
    /// Client certificate file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_certificate: Option<PathBuf>,
    /// Client key file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,
    /// Name to check the API server's certificate against
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
    /// Do not check the API server's certificate
    #[arg(long, global = true)]
    pub(crate) insecure_skip_tls_verify: bool,
    /// User to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(crate) impersonate: Option<String>,
    /// Group to impersonate; may be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub(crate) impersonate_groups: Vec<String>,
    /// Time to wait for one answer of the API server, such as 10s or 1m; 0 waits for ever
    #[arg(long, global = true, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub(crate) request_timeout: Duration,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Starts a virtual machine: sets spec.running of its OfflineVirtualMachine
    Start(TargetArgs),
    /// Stops a virtual machine: clears spec.running of its OfflineVirtualMachine
    Stop(TargetArgs),
    /// Restarts a virtual machine, with the changes made to its template: deletes its VirtualMachine
    Restart(TargetArgs),
    /// Shows what a virtual machine's guest sees of its machine, as it is on record; or what changed last; or forgets it
    #[command(subcommand)]
    Abi(AbiVerb),
    /// Connects to the serial console of a running virtual machine
    Console(ConsoleArgs),
    /// Opens the display of a running virtual machine in a viewer, or to one of your own
    Vnc(VncArgs),
    /// Empties a node: cordons it, and stops its virtual machines in order; those of an OfflineVirtualMachine start elsewhere
    Drain(DrainArgs),
    /// Makes, lists and deletes the tokens with which hosts join as hypervisors
    #[command(subcommand)]
    Token(TokenVerb),
    /// Prints the versions of this program and of the ovm-controller or ovm-standalone that it works with
    Version(VersionArgs),
    /// Prints a script that completes commands in a shell
    Completion {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
}

/// What to do with a guest's ABI records.
#[derive(Debug, Subcommand)]
pub(crate) enum AbiVerb {
    /// Prints the record that counts
    Show(TargetArgs),
    /// Prints what changed with the newest record
    Diff(TargetArgs),
    /// Forgets all records: the next start decides everything anew
    Reset(TargetArgs),
}

/// What to do with the tokens with which hosts join.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Makes a token, and prints the command that joins a host with it. It is good for one host
    Create(TokenCreateArgs),
    /// Lists the tokens that are not used up
    List,
    /// Deletes a token
    Delete {
        /// The token, or the part before its dot
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// The token to make.
#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// Time after which the token is no longer good, such as 30m or 24h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// Let the host that joins with it take the place of this joined node, even while that node's agent lives
    #[arg(long, value_name = "NODE")]
    pub(crate) replace: Option<String>,
}

/// The virtual machine to act on.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Name of the OfflineVirtualMachine, also as TYPE NAME or TYPE/NAME (TYPE: ovm, omv, offlinevirtualmachine)
    #[arg(required = true, num_args = 1..=2, value_name = "[TYPE] NAME")]
    pub(crate) words: Vec<String>,
}

/// The virtual machine to connect to, and for how long to wait for it.
#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// Name of the virtual machine, also as TYPE NAME or TYPE/NAME (TYPE: vm, ovm)
    #[arg(required = true, num_args = 1..=2, value_name = "[TYPE] NAME")]
    pub(crate) words: Vec<String>,
    /// Time to wait for a virtual machine that is still starting, such as 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// The display to open, and for whom.
#[derive(Debug, Args)]
pub(crate) struct VncArgs {
    /// Name of the virtual machine, also as TYPE NAME or TYPE/NAME (TYPE: vm, ovm)
    #[arg(required = true, num_args = 1..=2, value_name = "[TYPE] NAME")]
    pub(crate) words: Vec<String>,
    /// Start no viewer: print {"port":N}, and pass on the one that connects to that port of 127.0.0.1
    #[arg(long)]
    pub(crate) proxy_only: bool,
    /// Port of 127.0.0.1 to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// Time to wait for a virtual machine that is still starting, such as 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// The node to empty, and how.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Name of the node, also as node/NAME
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Stop virtual machines without an OfflineVirtualMachine too: nothing starts them again
    #[arg(long)]
    pub(crate) force: bool,
    /// Time to wait until the node is empty, such as 30s or 5m; 0 waits for ever
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Which versions to print.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print the version of this program only; ask no server
    #[arg(long)]
    pub(crate) client: bool,
    /// Form of the output [default: two lines]
    #[arg(long, short = 'o', value_name = "FORM")]
    pub(crate) output: Option<VersionForm>,
}

/// In which form versions are printed. kubectl's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VersionForm {
    /// One object.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Reads kubectl's form of a time: 30s, 5m, 1h30m, 500ms, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time; write 30s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |i| digits + i);
        let unit = match &rest[digits..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(wrong()),
        };
        total = unit.checked_mul(number).and_then(|time| total.checked_add(time)).ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_kubectls() {
        for (text, millis) in
            [("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("7", 7000), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5x", "-1s", "1m5", "99999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn help() {
        insta::assert_snapshot!(Cli::command().term_width(120).render_long_help());
    }
}
