//! A child of its own for each disk that a stranger made: it gets the open file, and answers with one line.
//!
//! ```text
//! agent ── /proc/self/exe as ovm-image-inspector, stdin = the disk (read-only) ──► limits, nobody, system calls ──► detect_format
//!       ◄── {"disk": {"format": "qcow2", "virtualBytes": 1048576}} or {"refused": "…"} ──┘
//! ```

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

use super::format::{DetectedFormat, DiskFormat, detect_format};
use super::inspect::{Inspect, InspectError};
use super::printable;
use super::sandbox;

/// The name by which a program of ours is called to be the child.
const CALLED: &str = "ovm-image-inspector";
/// The program that runs, also when its file has been replaced since.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// An answer is a line.
const MAX_ANSWER_BYTES: u64 = 4 << 10;
const SECTOR_BYTES: u64 = 512;

/// Has disks looked at by a child that can do nothing else.
#[derive(Clone, Debug)]
pub struct Inspector {
    program: PathBuf,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    #[serde(rename_all = "camelCase")]
    Disk {
        format: DiskFormat,
        virtual_bytes: u64,
    },
    Refused(String),
    /// It was not shut in, and did not look.
    Failed(String),
}

impl Default for Inspector {
    fn default() -> Self {
        Self { program: THIS_PROGRAM.into() }
    }
}

impl Inspector {
    /// With the child in another program of ours.
    pub fn at(program: &Path) -> Self {
        Self { program: program.to_owned() }
    }

    fn ask(&self, file: &File) -> io::Result<Verdict> {
        let mut child = Command::new(&self.program)
            .arg0(CALLED)
            .env_clear()
            .current_dir("/")
            .stdin(file.try_clone()?)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut answer = Vec::new();
        let read = child.stdout.take().map(|stdout| stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer));
        // It ends by itself: its processor time is limited, and whom it writes to is gone.
        let status = child.wait()?;
        read.transpose()?;
        // An answer that is whole counts, however the process ends after it: its libraries have things to do at an end that it may not do any more.
        let unheard =
            |_| io::Error::other(format!("the process that looks at images ended with {status}, and no answer"));
        serde_json::from_slice(&answer).map_err(unheard)
    }
}

impl Inspect for Inspector {
    fn inspect(&self, file: &File) -> Result<DetectedFormat, InspectError> {
        match self.ask(file).map_err(|error| InspectError::Failed(error.to_string()))? {
            Verdict::Disk { format, virtual_bytes } if virtual_bytes > 0 && virtual_bytes % SECTOR_BYTES == 0 => {
                Ok(DetectedFormat { format, virtual_bytes })
            }
            Verdict::Disk { .. } => Err(InspectError::Failed("its size is none".to_owned())),
            Verdict::Refused(why) => Err(InspectError::Refused(printable(&why))),
            Verdict::Failed(why) => Err(InspectError::Failed(printable(&why))),
        }
    }
}

/// Is the child, if this program was called as it. The first thing in `main`.
pub fn run_if_called() -> Option<ExitCode> {
    let called = std::env::args_os().next().is_some_and(|name| name == CALLED);
    called.then(|| {
        let verdict = look();
        let answer = serde_json::to_vec(&verdict).unwrap_or_default();
        let told = io::stdout().write_all(&answer).and_then(|()| io::stdout().flush());
        if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

fn look() -> Verdict {
    let file = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(file) => File::from(file),
        Err(error) => return Verdict::Failed(error.to_string()),
    };
    if let Err(error) = sandbox::enter() {
        return Verdict::Failed(api::chain(&error));
    }
    match detect_format(&file) {
        Ok(DetectedFormat { format, virtual_bytes }) => Verdict::Disk { format, virtual_bytes },
        Err(error) => Verdict::Refused(api::chain(&error)),
    }
}
