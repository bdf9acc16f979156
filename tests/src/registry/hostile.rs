//! A registry that answers as a test tells it to, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::TestImage;
use super::image::digest;

/// Bytes that are sent at a time where a reply has a pace.
const PACED_BYTES: usize = 64 << 10;

/// An answer to a path.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers beside the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The connection breaks after so many bytes of the body, the first time.
    pub cut_once_at: Option<usize>,
    /// Ranges are answered; else the whole body comes each time.
    pub knows_ranges: bool,
    /// A pause after every 64 KiB.
    pub pace: Option<Duration>,
    /// Only for who shows this.
    pub authorization: Option<String>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method and path.
    pub line: String,
    /// What stood behind the path and a question mark.
    pub query: String,
    /// Header `Authorization`.
    pub authorization: Option<String>,
    /// Header `Range`.
    pub range: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    replies: BTreeMap<String, Reply>,
    asked: Vec<Asked>,
}

/// The registry. Its thread ends with the test.
#[derive(Debug, Clone)]
pub struct HostileRegistry {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Reply {
    /// 200, and this.
    pub fn ok(body: Vec<u8>) -> Self {
        Self::status(200, body)
    }

    /// This status.
    pub fn status(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            cut_once_at: None,
            knows_ranges: true,
            pace: None,
            authorization: None,
        }
    }

    /// A redirect.
    pub fn redirect(target: &str) -> Self {
        Self::status(307, Vec::new()).with_header("Location", target)
    }

    /// The same with one header more.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl HostileRegistry {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let port = listener.local_addr().context("read the port")?.port();
        let registry = Self { port, state: Arc::default() };
        let served = registry.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let served = served.clone();
                // A client that goes away in the middle is what some tests are about.
                thread::spawn(move || drop(served.serve(&connection)));
            }
        });
        Ok(registry)
    }

    /// Host and port.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// How an image in it is named.
    pub fn image(&self, repository: &str) -> String {
        format!("{}/{repository}:1", self.host())
    }

    /// Answers this path so.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).replies.insert(path.to_owned(), reply);
    }

    /// Serves an image as an honest registry would; what is then replied otherwise counts.
    pub fn put(&self, repository: &str, image: &TestImage) {
        let manifest = image.manifest.to_string().into_bytes();
        let reply = Reply::ok(manifest)
            .with_header("Content-Type", image.media_type())
            .with_header("Docker-Content-Digest", &image.digest());
        self.reply(&format!("/v2/{repository}/manifests/1"), reply.clone());
        self.reply(&format!("/v2/{repository}/manifests/{}", image.digest()), reply);
        for blob in &image.blobs {
            self.reply(&blob_path(repository, blob), Reply::ok(blob.clone()));
        }
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asked.clone()
    }

    fn serve(&self, connection: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut headers = BTreeMap::new();
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let Some((name, value)) = header.trim().split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            let (method, target) = line.split_once(' ').unwrap_or_default();
            let target = target.split(' ').next().unwrap_or_default();
            let (target, query) = target.split_once('?').unwrap_or((target, ""));
            let authorization = headers.remove("authorization");
            let (line, query) = (format!("{method} {target}"), query.to_owned());
            let asked = Asked { line, query, authorization, range: headers.remove("range") };
            let reply = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.asked.push(asked.clone());
                let cut = state.replies.get_mut(target).map(|reply| (reply.clone(), reply.cut_once_at.take()));
                cut.map_or_else(|| Reply::status(404, Vec::new()), |(reply, _)| reply)
            };
            if !answer(connection, method, &asked, &reply)? {
                return Ok(());
            }
        }
    }
}

/// Answers, and says whether the connection is good for more.
fn answer(mut connection: &TcpStream, method: &str, asked: &Asked, reply: &Reply) -> Result<bool> {
    if reply.authorization.is_some() && reply.authorization != asked.authorization {
        write!(connection, "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(true);
    }
    let from = asked
        .range
        .as_deref()
        .filter(|_| reply.knows_ranges)
        .and_then(|range| range.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok());
    let from = from.unwrap_or(0).min(reply.body.len());
    let status = if from > 0 { 206 } else { reply.status };
    let body = &reply.body[from..];
    write!(connection, "HTTP/1.1 {status} Hello\r\nContent-Length: {}\r\n", body.len())?;
    if from > 0 {
        write!(connection, "Content-Range: bytes {from}-{}/{}\r\n", reply.body.len() - 1, reply.body.len())?;
    }
    for (name, value) in &reply.headers {
        write!(connection, "{name}: {value}\r\n")?;
    }
    write!(connection, "\r\n")?;
    if method == "HEAD" {
        return Ok(true);
    }
    let sent = &body[..reply.cut_once_at.unwrap_or(body.len()).min(body.len())];
    match reply.pace {
        None => connection.write_all(sent)?,
        Some(pace) => {
            for piece in sent.chunks(PACED_BYTES) {
                connection.write_all(piece)?;
                thread::sleep(pace);
            }
        }
    }
    Ok(reply.cut_once_at.is_none())
}

/// The path of a blob.
pub fn blob_path(repository: &str, blob: &[u8]) -> String {
    format!("/v2/{repository}/blobs/{}", digest(blob))
}
