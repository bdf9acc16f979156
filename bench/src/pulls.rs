//! Images from a registry on this host: how fast one is pulled, beside curl and the like in the same minute; and that the store keeps under its limit.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::programs::{output, program};
use tests::registry::{DockerRegistry, TestImage, digest, tar_with};

use crate::figure::{Figure, Goal};
use crate::rounds::{listed, median};

/// At least so much of the throughput of the floor.
const PULL_GOAL: f64 = 0.8;
/// A disk whose pull takes far longer than a process to start.
const DISK_BYTES: usize = 512 << 20;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The store's limit, and what is pulled into it one after the other: three times as much.
const STORE_LIMIT_BYTES: u64 = 192 << 20;
const CHURNED: u64 = 36;
const CHURNED_BYTES: usize = 16 << 20;
const LOOK: Duration = Duration::from_millis(2);
const BLOCK_BYTES: u64 = 512;

/// Bytes of the disk a second, of a layer as it is and of one packed with gzip.
///
/// `pull`: until curl has the same blob on disk. `pull-checked`: until it is on disk, and its digest known. `pull-gzip`: until curl, gzip and sha256sum know
/// the digest of what is packed; nothing is written.
///
/// # Errors
/// When something cannot be pulled.
pub(crate) fn measure(registry: &DockerRegistry, scratch: &Path, rounds: usize) -> Result<Vec<Figure>> {
    let tar = tar_with(&[("disk/disk.img", &disk(DISK_BYTES, 1))])?;
    let diff_id = digest(&tar);
    let packed = output_of(Command::new("gzip").args(["--fast", "--stdout"]), &tar)?;
    let plain = TestImage::new(vec![(tar, LAYER)], std::slice::from_ref(&diff_id));
    let plain = Pulled::push(registry, scratch, "plain", &plain)?;
    let gzipped = format!("{LAYER}+gzip");
    let packed = TestImage::new(vec![(packed, &gzipped)], &[diff_id]);
    let packed = Pulled::push(registry, scratch, "packed", &packed)?;

    let mut taken = <[Vec<Duration>; 5]>::default();
    for _ in 0..rounds {
        let now = [plain.curl()?, plain.pull()?, plain.curl_and_check()?, packed.pull()?, packed.curl_and_unpack()?];
        taken.iter_mut().zip(now).for_each(|(all, now)| all.push(now));
    }
    for (what, taken) in
        ["curl", "pull", "curl, tee, sha256sum", "pull of gzip", "curl, gzip, sha256sum"].iter().zip(&taken)
    {
        eprintln!("{what}: {}", listed(taken));
    }
    let [curl, pull, check, pull_packed, unpack] = taken.map(|taken| median(taken).map(megabytes_a_second));
    let goal = Goal::AtLeastTimesFloor(PULL_GOAL);
    let figure = |name, value: Option<f64>, floor| {
        Ok(Figure { name, value: value.context("there are no rounds")?, unit: "MB/s", floor, goal })
    };
    [figure("pull", pull, curl), figure("pull-checked", pull, check), figure("pull-gzip", pull_packed, unpack)]
        .into_iter()
        .collect()
}

/// The most that the store's files took while far more than its limit was pulled.
///
/// # Errors
/// When something cannot be pulled, or the images were not deleted one by one.
pub(crate) fn measure_store(registry: &DockerRegistry, scratch: &Path) -> Result<Figure> {
    let data = scratch.join("churned");
    for seed in 0..CHURNED {
        let tar = tar_with(&[("disk/disk.img", &disk(CHURNED_BYTES, seed + 2))])?;
        let diff_id = digest(&tar);
        registry.push(&format!("churned-{seed}:1"), &TestImage::new(vec![(tar, LAYER)], &[diff_id]))?;
    }
    let ended = AtomicBool::new(false);
    let (most, pulled) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(used_bytes(&data));
                thread::sleep(LOOK);
            }
            most.max(used_bytes(&data))
        });
        let pulled = (0..CHURNED).try_for_each(|seed| {
            let mut pull = pull_command(&registry.image(&format!("churned-{seed}:1")), &data)?;
            output(pull.args(["--image-store-limit", &STORE_LIMIT_BYTES.to_string()])).map(drop)
        });
        ended.store(true, Ordering::Relaxed);
        (watch.join(), pulled)
    });
    pulled?;
    let most = most.ok().context("look at the store")?;
    ensure!(most > STORE_LIMIT_BYTES / 2, "the store kept {most} bytes only");
    let megabytes = |bytes: u64| Duration::from_micros(bytes).as_secs_f64();
    let (value, floor) = (megabytes(most), Some(megabytes(STORE_LIMIT_BYTES)));
    Ok(Figure { name: "store", value, unit: "MB", floor, goal: Goal::TimesFloor(1.0) })
}

/// An image at the registry, and how it is had.
struct Pulled {
    image: String,
    url: String,
    file: PathBuf,
    data: PathBuf,
}

impl Pulled {
    fn push(registry: &DockerRegistry, scratch: &Path, name: &str, image: &TestImage) -> Result<Self> {
        registry.push(&format!("{name}:1"), image)?;
        let layer = image.blobs.last().context("an image has a layer")?;
        Ok(Self {
            image: registry.image(&format!("{name}:1")),
            url: format!("http://{}/v2/{name}/blobs/{}", registry.host(), digest(layer)),
            file: scratch.join(format!("{name}.blob")),
            data: scratch.join(name),
        })
    }

    fn pull(&self) -> Result<Duration> {
        let begun = Instant::now();
        output(&mut pull_command(&self.image, &self.data)?)?;
        let took = begun.elapsed();
        fs::remove_dir_all(&self.data).context("empty the store")?;
        Ok(took)
    }

    /// On disk is what a pull has on disk too when it says so.
    fn curl(&self) -> Result<Duration> {
        self.shell("curl -sf \"$URL\" >\"$FILE\" && sync \"$FILE\"")
    }

    fn curl_and_check(&self) -> Result<Duration> {
        self.shell("curl -sf \"$URL\" | tee \"$FILE\" | sha256sum && sync \"$FILE\"")
    }

    fn curl_and_unpack(&self) -> Result<Duration> {
        self.shell("curl -sf \"$URL\" | gzip --decompress | sha256sum")
    }

    fn shell(&self, line: &str) -> Result<Duration> {
        let begun = Instant::now();
        output(Command::new("sh").args(["-c", line]).env("URL", &self.url).env("FILE", &self.file))?;
        let took = begun.elapsed();
        if self.file.exists() {
            fs::remove_file(&self.file).context("remove what curl got")?;
        }
        Ok(took)
    }
}

fn pull_command(image: &str, data: &Path) -> Result<Command> {
    let mut command = Command::new(program("ovm-agent")?);
    command.args(["image", "pull", image, "--data-dir"]).arg(data);
    Ok(command)
}

/// Half of it cannot be packed, as of many systems' disks.
fn disk(bytes: usize, seed: u64) -> Vec<u8> {
    const RUN: usize = 4096;
    let mut disk = vec![b'x'; bytes];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for run in disk.chunks_mut(RUN).step_by(2) {
        for word in run.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
    }
    disk
}

/// What a program makes of its input.
fn output_of(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    fs::write(file.path(), input).context("write the input")?;
    let out = command.stdin(File::open(file.path())?).stderr(Stdio::inherit()).output().context("run a program")?;
    ensure!(out.status.success(), "{command:?} ended with {}", out.status);
    Ok(out.stdout)
}

/// Bytes on disk, in whatever is in the store's files right now.
fn used_bytes(data: &Path) -> u64 {
    let files = ["blobs", "incoming"].into_iter().filter_map(|name| fs::read_dir(data.join("images").join(name)).ok());
    // One may go while we look.
    files.flatten().filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.blocks() * BLOCK_BYTES).sum()
}

fn megabytes_a_second(took: Duration) -> f64 {
    // A microsecond a byte: millions of bytes are seconds.
    Duration::from_micros(DISK_BYTES as u64).as_secs_f64() / took.as_secs_f64()
}
